//go:build !race

package pyproto

const raceDetector = false
