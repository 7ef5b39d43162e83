// Command bench compares mitogend with Mitogen's own Python master, execnet and the floor (the cost of the same work
// without any of them), in one run on one machine, and prints one table.
//
// Each subject is a driver: one process that holds one master and answers a line protocol on stdin and stdout
// (py/peer.py describes it). The Python peers run under Debian's python3, which has them as packages; ours and the floor
// are this binary, started again with -driver. So all are measured alike: wall time inside the master's own
// process, CPU by getrusage(2), memory and descriptors from /proc.
//
//	runner ──stdin/stdout──> driver mitogen ──> python children
//	       ──────────────> driver execnet ──> python children
//	       ──────────────> driver ours    ──> python children
//	       ──────────────> driver floor   ──> bare interpreters, pipes
//
// # Method
//
// Samples are interleaved (A B C D, A B C D, ...), so that a slow minute of the machine affects all. The first samples of
// each are thrown away, and their number is printed. A figure is the median of the rest with half the distance between the
// quartiles. Where placement matters, taskset(1) binds the driver and all that it starts to CPU 0. Children run in a
// virtual environment made for the run, without site packages and without pip. For "cold" measurements each sample has a
// new driver. Units: 1 MB is 10^6 bytes.
//
// For thousands of targets (fleet.go), ours has children that are not Python: py/standin.c, built by cc.
//
// A link with delay is this binary again (-relay), in place of the interpreter: it starts the real one and passes bytes on in both
// directions, each late by half the round trip.
package main
