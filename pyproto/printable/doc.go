// Package printable makes text of somebody else's harmless to show.
//
// What a child says (names, log records, errors, reasons, tracebacks) may hold escape sequences, which a terminal
// obeys, controls and marks that change the order of what is read, and newlines that make one message look like two.
// What is printed of it, or put into the text of an error, goes through here; fields that programs read keep what
// came.
//
//	Line     one line: everything that is no visible character is escaped, newlines and tabs too
//	Text     as Line, but lines stay; all after the first are indented, so that none passes for a line of ours
//	Lines    Text without the indentation, for the text of an error, whose printer indents it
//	Colored  as Line for a line that a program printed: tabs and colours stay
//	JSON     JSON with the same meaning, and no such character in it
//
// What a character is escaped to is what Go and Python write: \n, \x1b, \u202e, \U000e0041; a byte that is not UTF-8
// is \xff. A backslash stays one, so that this is for reading and not for parsing. Joiners (U+200C, U+200D) stay:
// scripts and emoji need them, and they move nothing.
//
// The package imports nothing of ours and holds no state.
package printable
