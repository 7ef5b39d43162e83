package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

const (
	plotWidth, plotHeight = 640, 400
	plotLeft, plotRight   = 80, 110
	plotTop, plotBottom   = 40, 50
	plotAreaWidth         = plotWidth - plotLeft - plotRight
	plotAreaHeight        = plotHeight - plotTop - plotBottom
	plotFont              = "font-family=\"sans-serif\" font-size=\"12\""
)

var plotColors = map[subject]string{ours: "#0b6e4f", mitogen: "#c0392b", execnet: "#2c6fbb", floor: "#777777"}

// axis maps values to positions by their logarithm.
type axis struct{ lo, hi, from, to float64 }

func (a axis) at(v float64) float64 {
	return a.from + (math.Log10(v)-a.lo)/(a.hi-a.lo)*(a.to-a.from)
}

// newAxis covers whole decades.
func newAxis(values []float64, from, to float64) axis {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		lo, hi = min(lo, math.Log10(v)), max(hi, math.Log10(v))
	}
	lo, hi = math.Floor(lo+1e-9), math.Ceil(hi-1e-9)
	if hi == lo {
		hi++
	}
	return axis{lo, hi, from, to}
}

// plot writes the curve as DIR/NAME.svg, both axes logarithmic, medians with the quartiles' distance as a bar.
func (c reportCurve) plot(dir string) error {
	var ys []float64
	for _, figures := range c.Figures {
		for _, f := range figures {
			if f != nil && f.Median > 0 {
				ys = append(ys, f.Median)
			}
		}
	}
	if len(ys) == 0 {
		return nil
	}
	x := newAxis(c.X, plotLeft, plotLeft+plotAreaWidth)
	y := newAxis(ys, plotTop+plotAreaHeight, plotTop)

	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" %s>\n", plotWidth, plotHeight, plotFont)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"22\" font-size=\"15\">%s</text>\n", plotLeft, c.Title)
	for d := x.lo; d <= x.hi; d++ {
		at := x.at(math.Pow(10, d))
		fmt.Fprintf(&b, "<path d=\"M%.1f %d V%d\" stroke=\"#ddd\"/>\n", at, plotTop, plotTop+plotAreaHeight)
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", at, plotTop+plotAreaHeight+18,
			tick(c.XUnit, math.Pow(10, d)))
	}
	for d := y.lo; d <= y.hi; d++ {
		at := y.at(math.Pow(10, d))
		fmt.Fprintf(&b, "<path d=\"M%d %.1f H%d\" stroke=\"#ddd\"/>\n", plotLeft, at, plotLeft+plotAreaWidth)
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", plotLeft-8, at+4, tick(c.Unit, math.Pow(10, d)))
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", plotLeft+plotAreaWidth/2, plotHeight-10, c.Axis)

	at := plotTop + 14
	for _, s := range subjectsOf[masters] {
		if !c.line(&b, s, x, y) {
			continue
		}
		fmt.Fprintf(&b, "<path d=\"M%d %d h20\" stroke=\"%s\" stroke-width=\"2\"/>\n", plotLeft+plotAreaWidth+12, at-4, plotColors[s])
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\">%s</text>\n", plotLeft+plotAreaWidth+38, at, s)
		at += 20
	}
	b.WriteString("</svg>\n")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, c.Name+".svg"), []byte(b.String()), 0o644)
}

// line draws one subject, and is false if it has no figure.
func (c reportCurve) line(b *strings.Builder, s subject, x, y axis) bool {
	var points []string
	for i, f := range c.Figures[s] {
		if f == nil || f.Median <= 0 {
			continue
		}
		px, py := x.at(c.X[i]), y.at(f.Median)
		points = append(points, fmt.Sprintf("%.1f,%.1f", px, py))
		fmt.Fprintf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", px, py, plotColors[s])
		if low := f.Median - f.Spread; f.Spread > 0 && low > 0 {
			fmt.Fprintf(b, "<path d=\"M%.1f %.1f V%.1f\" stroke=\"%s\"/>\n", px, y.at(low), y.at(f.Median+f.Spread), plotColors[s])
		}
	}
	if len(points) > 1 {
		fmt.Fprintf(b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", strings.Join(points, " "),
			plotColors[s])
	}
	return len(points) > 0
}

// tick is a decade's label, without digits after the point.
func tick(u unit, v float64) string {
	s := u.format(v)
	return strings.Replace(strings.Replace(s, ".00", "", 1), ".0", "", 1)
}
