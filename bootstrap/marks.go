package bootstrap

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// maxBanner bounds what a program may print before MITO002, over both streams.
const maxBanner = 1 << 20

// complaint begins the line by which the target says that it cannot go on; the reason follows.
const complaint = "MITOERR "

// What a [Supply] is asked for by the target's sh, in this order. noPython ends with what it has tried: it waits for a command. The
// others are followed by the hash and the form of a build.
const (
	noPython  = "MITONOPY tried"
	wantSize  = "MITOSIZE "
	wantBuild = "MITOSEND "
)

var questions = []string{noPython, wantSize, wantBuild}

// phase is how far the handshake has come.
type phase int

const (
	waitHello    phase = iota // for MITO000: an interpreter runs the first stage; questions for a Supply may come before
	waitReceived              // for MITO001: it has read the preamble
	waitReady                 // for MITO002: the runtime speaks frames from the next byte on
	ready
)

func (p phase) step() Step {
	switch p {
	case waitHello:
		return StepConnect
	case waitReceived:
		return StepStage
	}
	return StepRuntime
}

// step is the phase's, or StepSupply once a Supply was asked.
func (m *marks) step() Step {
	if m.phase == waitHello && m.asked > 0 {
		return StepSupply
	}
	return m.phase.step()
}

// event is what one line of the data stream means.
type event int

const (
	evNone     event = iota // no complete line yet
	evText                  // a banner or a complaint
	evHello                 // MITO000
	evReceived              // MITO001
	evReady                 // MITO002
	evFailed                // MITOERR: the target itself says what is wrong
	evAsked                 // it has no Python, and asks for one
)

// marks is the handshake as a state machine over lines. It does no I/O: bytes go in, events come out.
type marks struct {
	phase  phase
	line   lineBuffer
	hello  Hello  // of MITO000
	text   string // of the last evText, evFailed  or evAsked, normalised
	supply bool   // evAsked may come
	asked  int    // how many of the questions have come
	banner int    // bytes so far that were no marker
}

// next consumes b up to and including the first newline. Nothing more may be given to it after evReady: the rest of b is frames.
func (m *marks) next(b []byte) (int, event) {
	n, line, full := m.line.take(b)
	if !full {
		m.banner += n
		return n, evNone
	}
	s := string(line)
	ev := m.meaning(s)
	if ev == evText {
		m.text = normalise(s)
		m.banner += n
	}
	return n, ev
}

// meaning compares a whole line with the marker that comes next; any other marker, or one with something around it, is text
// like any other. Only MITO000 with a version may stand at the end of a line, since a banner or a prompt without
// newline can come before it.
func (m *marks) meaning(s string) event {
	if strings.HasPrefix(s, complaint) {
		m.text = normalise(s)
		return evFailed
	}
	switch m.phase {
	case waitHello:
		if q := m.question(s); q != "" {
			m.text = q
			m.asked++
			return evAsked
		}
		if s == "MITO000" {
			m.phase = waitReceived
			return evHello
		}
		i := strings.LastIndex(s, "MITO000 ")
		if i < 0 {
			return evText
		}
		hello, ok := parseHello(s[i+len("MITO000 "):])
		if !ok {
			return evText
		}
		m.hello, m.phase = hello, waitReceived
		return evHello
	case waitReceived:
		if s == "MITO001" {
			m.phase = waitReady
			return evReceived
		}
	case waitReady:
		if s == "MITO002" {
			m.phase = ready
			return evReady
		}
	}
	return evText
}

// question finds a question for a Supply at the end of a line. Each comes once.
func (m *marks) question(s string) string {
	if !m.supply || m.asked == len(questions) {
		return ""
	}
	if i := strings.LastIndex(s, questions[m.asked]); i >= 0 {
		return normalise(s[i:])
	}
	return ""
}

// Hello is what an interpreter says of itself before it is sent the runtime.
type Hello struct {
	// HexVersion is sys.hexversion; 0 when the first stage does not tell, as Mitogen's own does not.
	HexVersion uint32
	// Magic is the magic number of the bytecode that it may be sent; 0 means source only.
	Magic uint16
}

func parseHello(s string) (h Hello, ok bool) {
	version, magic, told := strings.Cut(s, " ")
	v, err := strconv.ParseUint(version, 16, 32)
	if err != nil || v < 0x01000000 {
		return h, false
	}
	h.HexVersion = uint32(v)
	if told {
		// Its bytes, as they stand in a file.
		n, err := strconv.ParseUint(magic, 16, 16)
		if err != nil || len(magic) != 4 {
			return h, false
		}
		h.Magic = bits.ReverseBytes16(uint16(n))
	}
	return h, true
}

// Supported reports whether a runtime can start on that interpreter. 0 is unknown and passes.
func Supported(hexVersion uint32) bool {
	v := hexVersion >> 16
	return hexVersion == 0 || v >= 0x0207 && v < 0x0300 || v >= 0x0306
}

// FormatVersion writes sys.hexversion as people do: "3.11.7".
func FormatVersion(hexVersion uint32) string {
	return fmt.Sprintf("%d.%d.%d", hexVersion>>24, hexVersion>>16&0xff, hexVersion>>8&0xff)
}
