// Package nothere keeps interpreters that are started by `python -c` from modules of the current directory, which may be
// somebody else's, and may not be readable. (Their own flag for that, -P, is of 3.11.)
package nothere

// Line is for the first line of such a program, behind `import sys;`. It passes unharmed between any shell's single or
// double quotes, and every Python since 2.4 takes it.
const Line = `sys.path[:]=filter(None,sys.path);`
