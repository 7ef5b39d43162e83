//go:build !race

package pyproto

const raceEnabled = false
