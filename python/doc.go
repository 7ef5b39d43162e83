// Package python holds the child runtime, the Python source that a target runs, and prepares it for the wire.
//
// first_stage.py is small enough for a command line: [Stub] is the argument of `python -c`. It reads what
// [Booter.Preamble] made from descriptor 0 and turns into core.py, which answers to the names mitogen and
// mitogen.core. parent.py, served over the importer as mitogen.parent, is what only a child with children of its own
// needs.
//
// The sources are sent without comments, docstrings and most of their indentation ([Shrink]), but line for line, so
// that the line numbers of a traceback are those of the files here.
package python
