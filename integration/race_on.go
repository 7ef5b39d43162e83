//go:build race

package integration

// raceEnabled: the binary is built with -race if this test is.
const raceEnabled = true
