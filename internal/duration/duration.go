// Package duration reads durations as they are written in targets, flags and requests.
package duration

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Parse reads seconds (5, 0.5), or what has units (5s, 1m30s).
func Parse(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(seconds) < 1<<33 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return d, nil
	}
	if len(s) > 100 {
		s = s[:100] + "..."
	}
	return 0, fmt.Errorf("%q is no duration: write 30, 30s or 1m30s", s)
}
