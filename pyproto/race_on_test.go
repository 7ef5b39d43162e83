//go:build race

package pyproto

// raceEnabled: the program is built with -race.
const raceEnabled = true
