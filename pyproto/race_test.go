//go:build race

package pyproto

// raceDetector: the program is built with -race.
const raceDetector = true
