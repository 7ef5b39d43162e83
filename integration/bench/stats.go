package main

import (
	"fmt"
	"math"
	"sort"
)

// quantile gives the q-quantile of sorted values, between the two nearest.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	lo := int(math.Floor(at))
	hi := int(math.Ceil(at))
	return sorted[lo] + (sorted[hi]-sorted[lo])*(at-float64(lo))
}

// figure sums up the samples of one metric of one subject.
type figure struct {
	Median  float64   `json:"median"`
	Spread  float64   `json:"spread"` // half the distance between the quartiles
	Samples []float64 `json:"samples"`
}

func newFigure(samples []float64) figure {
	s := append([]float64(nil), samples...)
	sort.Float64s(s)
	return figure{
		Median:  quantile(s, 0.5),
		Spread:  (quantile(s, 0.75) - quantile(s, 0.25)) / 2,
		Samples: samples,
	}
}

// unit says how a number is shown. Values are in base units: seconds, bytes, bytes per second.
type unit string

const (
	unitSeconds unit = "s"
	unitBytes   unit = "B"
	unitRate    unit = "B/s"
	unitPerSec  unit = "/s"
	unitCount   unit = ""
)

func (u unit) format(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	switch u {
	case unitSeconds:
		return scaled(v, []scale{{1, "s"}, {1e-3, "ms"}, {1e-6, "us"}, {1e-9, "ns"}})
	case unitBytes:
		return scaled(v, []scale{{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}, {1, "B"}})
	case unitRate:
		return scaled(v, []scale{{1e6, "MB/s"}, {1e3, "kB/s"}, {1, "B/s"}})
	case unitPerSec:
		return scaled(v, []scale{{1e3, "k/s"}, {1, "/s"}})
	}
	return significant(v)
}

type scale struct {
	size float64
	name string
}

func scaled(v float64, scales []scale) string {
	for _, s := range scales {
		if math.Abs(v) >= s.size {
			return significant(v/s.size) + " " + s.name
		}
	}
	last := scales[len(scales)-1]
	return significant(v/last.size) + " " + last.name
}

// significant shows three digits, and all digits before the point.
func significant(v float64) string {
	switch a := math.Abs(v); {
	case math.Abs(a-math.Round(a)) < 1e-9*a || a == 0: // a whole number, except for rounding
		return fmt.Sprintf("%.0f", v)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func (f figure) format(u unit) string {
	if math.IsNaN(f.Median) {
		return "-"
	}
	s := u.format(f.Median)
	if len(f.Samples) > 1 && f.Median != 0 && f.Spread != 0 {
		s += fmt.Sprintf(" ±%.0f%%", 100*f.Spread/math.Abs(f.Median))
	}
	return s
}
