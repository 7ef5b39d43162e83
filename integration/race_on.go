//go:build race

package integration

// raceEnabled: the binary is built as this test is.
const raceEnabled = true
