package pyproto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
)

// TestWireConstants pins what peers rely on.
func TestWireConstants(t *testing.T) {
	for name, c := range map[string]struct{ got, want uint64 }{
		"HeaderLen":         {HeaderLen, 26},
		"DefaultMaxMessage": {DefaultMaxMessage, 134217728},
		"EncMGC":            {uint64(EncMGC), 0x4d49},
		"EncPKL":            {uint64(EncPKL), 0x4d4a},
		"EncBIN":            {uint64(EncBIN), 0x4d4b},
		"GET_MODULE":        {uint64(GetModule), 100},
		"CALL_FUNCTION":     {uint64(CallFunction), 101},
		"FORWARD_LOG":       {uint64(ForwardLog), 102},
		"ADD_ROUTE":         {uint64(AddRoute), 103},
		"DEL_ROUTE":         {uint64(DelRoute), 104},
		"ALLOCATE_ID":       {uint64(AllocateID), 105},
		"SHUTDOWN":          {uint64(Shutdown), 106},
		"LOAD_MODULE":       {uint64(LoadModuleHandle), 107},
		"FORWARD_MODULE":    {uint64(ForwardModule), 108},
		"DETACHING":         {uint64(Detaching), 109},
		"CALL_SERVICE":      {uint64(CallService), 110},
		"STUB_CALL_SERVICE": {uint64(StubCallService), 111},
		"GET_RESOURCE":      {uint64(GetResource), 112},
		"LOAD_RESOURCE":     {uint64(LoadResource), 113},
		"PING":              {uint64(Ping), 99},
		"ALLOW":             {uint64(Allow), 987},
		"LOAD_CODE":         {uint64(LoadCode), 989},
		"FLOW":              {uint64(Flow), 990},
		"CONNECT":           {uint64(Connect), 991},
		"IS_DEAD":           {uint64(IsDead), 999},
		"FirstDynamic":      {uint64(FirstDynamic), 1000},
		"MaxCallError":      {MaxCallError, 10000},
		"maxContextName":    {maxContextName, 100},
	} {
		if c.got != c.want {
			t.Errorf("%s is %d, want %d", name, c.got, c.want)
		}
		if h := Handle(c.want); name == strings.ToUpper(name) && h.String() != name {
			t.Errorf("handle %d is called %s, want %s", c.want, h, name)
		}
	}
	if s := Handle(1234).String(); s != "1234" {
		t.Errorf("handle 1234 is called %s", s)
	}
}

func TestHeader(t *testing.T) {
	h := Header{Enc: EncPKL, Dst: 1, Src: 0x02030405, Auth: 0xffffffff, Handle: CallFunction, ReplyTo: 1000, Length: 7}
	want := "4d4a" + "00000001" + "02030405" + "ffffffff" + "00000065" + "000003e8" + "00000007"
	b := h.Append([]byte("x"))
	if got := hex.EncodeToString(b[1:]); got != want || b[0] != 'x' {
		t.Fatalf("got %s, want %s", got, want)
	}
	got, err := ParseHeader(append(b[1:], "more"...))
	if err != nil || got != h {
		t.Fatalf("got %+v, %v", got, err)
	}
	if n := testing.AllocsPerRun(100, func() { h.Put(b) }); n != 0 {
		t.Errorf("Put allocates %v times", n)
	}
	if _, err := ParseHeader(b[1:HeaderLen]); err == nil {
		t.Error("a short header was taken")
	}
	copy(b, "Traceback (most recent call last):")
	if _, err := ParseHeader(b); err == nil || !strings.Contains(err.Error(), "Traceback") {
		t.Errorf("the error does not quote the bytes: %v", err)
	}
}

func TestDead(t *testing.T) {
	m := &Message{Header: Header{Enc: EncMGC, Dst: 5, Handle: 1001, ReplyTo: IsDead}, Payload: []byte("no \xff route")}
	if alive := (&Message{Header: Header{ReplyTo: 1001}}); !m.IsDead() || alive.IsDead() || alive.Err() != nil {
		t.Error("IsDead")
	}
	var dead *DeadError
	if _, err := m.Value(); !errors.As(err, &dead) || dead.Reason != "no \ufffd route" {
		t.Errorf("got %v", err)
	}
	if s := (&DeadError{}).Error(); s == "" {
		t.Error("a dead message without a reason says nothing")
	}
}

func TestValue(t *testing.T) {
	payload, err := Marshal(Tuple{int64(1000), int64(2000)})
	if err != nil {
		t.Fatal(err)
	}
	m := &Message{Header: Header{Enc: EncMGC}, Payload: payload}
	if v, err := m.Value(); err != nil || !equal(v, Tuple{int64(1000), int64(2000)}) {
		t.Errorf("got %v, %v", v, err)
	}
	bin := &Message{Header: Header{Enc: EncBIN}, Payload: []byte("not a pickle")}
	if v, err := bin.Value(); err != nil || !equal(v, bin.Payload) {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestReadMessage(t *testing.T) {
	big := &Message{Header: Header{Enc: EncBIN, Dst: 1, Handle: 1000}, Payload: bytes.Repeat([]byte("z"), 3<<20)}
	small := &Message{Header: Header{Enc: EncMGC, Dst: 2, Handle: GetModule, ReplyTo: 1000}, Payload: []byte("os.path")}
	empty := &Message{Header: Header{Enc: EncMGC, Dst: 3, Handle: Shutdown}}
	stream := empty.Append(small.Append(big.Append(small.Append(nil))))

	for name, r := range map[string]io.Reader{
		"whole":    bytes.NewReader(stream),
		"one byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"data err": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		for _, want := range []*Message{small, big, small, empty} {
			m, err := ReadMessage(r, DefaultMaxMessage)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if m.Dst != want.Dst || !bytes.Equal(m.Payload, want.Payload) || int(m.Length) != len(want.Payload) {
				t.Errorf("%s: got %v with %d bytes", name, m.Header, len(m.Payload))
			}
		}
		if _, err := ReadMessage(r, DefaultMaxMessage); err != io.EOF {
			t.Errorf("%s: got %v at the end, want io.EOF", name, err)
		}
	}

	// One that is too large does not harm its neighbours.
	r := bytes.NewReader(stream)
	if _, err := ReadMessage(r, 1000); err != nil {
		t.Fatal(err)
	}
	var large *TooLargeError
	if _, err := ReadMessage(r, 1000); !errors.As(err, &large) || large.Header.Dst != 1 || large.Max != 1000 {
		t.Fatalf("got %v", err)
	}
	if m, err := ReadMessage(r, 1000); err != nil || string(m.Payload) != "os.path" {
		t.Fatalf("got %v, %v", m, err)
	}

	for cut := 1; cut < HeaderLen+7; cut++ {
		if _, err := ReadMessage(bytes.NewReader(stream[:cut]), DefaultMaxMessage); err != io.ErrUnexpectedEOF {
			t.Errorf("got %v after %d bytes, want io.ErrUnexpectedEOF", err, cut)
		}
	}
	if _, err := ReadMessage(bytes.NewReader(stream[HeaderLen+7:HeaderLen+70]), 10); err != io.ErrUnexpectedEOF {
		t.Errorf("got %v inside of one that is too large, want io.ErrUnexpectedEOF", err)
	}
	if _, err := ReadMessage(strings.NewReader(strings.Repeat("x", 100)), 10); err == nil {
		t.Error("text was taken for a frame")
	}
}

// TestClaimedLength has a peer announce much and send little: memory goes by what it sends.
func TestClaimedLength(t *testing.T) {
	h := Header{Enc: EncMGC, Length: math.MaxInt32}
	stream := append(h.Append(nil), make([]byte, 100)...)
	n := allocated(func() {
		if _, err := ReadMessage(bytes.NewReader(stream), math.MaxInt32); err != io.ErrUnexpectedEOF {
			t.Error(err)
		}
	})
	if n > 2*payloadStep {
		t.Errorf("%d bytes were allocated for 100", n)
	}
}

// TestDocExample builds the frames that the package comment shows.
func TestDocExample(t *testing.T) {
	ask := &Message{Header: Header{Enc: EncMGC, Src: 5, Auth: 5, Handle: GetModule}, Payload: []byte("os2")}
	record := LoadModule{Name: "os2", Missing: true}
	p, err := record.AppendPickle(nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := &Message{Header: Header{Enc: EncMGC, Dst: 5, Handle: LoadModuleHandle}, Payload: p}
	for m, want := range map[*Message]string{
		ask:    "4d49 00000000 00000005 00000005 00000064 00000000 00000003 6f7332",
		answer: "4d49 00000005 00000000 00000000 0000006b 00000000 00000011 8002 28 5803000000 6f7332 4e4e4e 29 74 2e",
	} {
		if got := hex.EncodeToString(m.Append(nil)); got != strings.ReplaceAll(want, " ", "") {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
