// Package fault makes errors whose text begins with the name of a package of ours, and gives that text without the name.
//
// A log, and whoever uses one of the packages, shall tell where an error comes from. A user of the commands has called no package.
package fault

import "fmt"

// named is an error of a package.
type named struct {
	pkg string
	err error
}

func (e *named) Error() string { return e.pkg + ": " + e.err.Error() }

// Plain is for Plain.
func (e *named) Plain() string { return e.err.Error() }

func (e *named) Unwrap() error { return e.err }

// Errorf is fmt.Errorf with the name of a package and a colon before the text.
func Errorf(pkg, format string, args ...any) error { return &named{pkg, fmt.Errorf(format, args...)} }

// Plain gives an error's text without the name of the package that made it. Types of errors whose text begins with such a name have
// a method Plain as well. What an error wraps keeps its name.
func Plain(err error) string {
	if e, ok := err.(interface{ Plain() string }); ok {
		return e.Plain()
	}
	return err.Error()
}
