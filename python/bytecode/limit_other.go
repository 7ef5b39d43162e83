//go:build !linux

package bytecode

import "errors"

// limit: no compiler runs without limits, so there is none on other systems.
func limit(int) error { return errors.New("no limits can be set on this system") }
