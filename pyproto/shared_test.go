package pyproto

import (
	"math/big"
	"runtime"
	"strings"
	"testing"
)

// TestAssignOfSharedValues: what stands at many places in a pickle is not copied at each.
func TestAssignOfSharedValues(t *testing.T) {
	const n = 30000
	list := func(one string) []byte {
		return []byte("\x80\x02(" + one + "q\x00" + strings.Repeat("h\x00", n-1) + "l.")
	}
	long := binString('T', "a", 32000)
	type row struct {
		Name string `py:"name"`
	}
	for name, test := range map[string]struct {
		data []byte
		dst  any
		ok   bool
	}{
		"bytes as text":          {list(long), new([]string), true},
		"bytes in dicts":         {list("}" + binString('X', "k", 1) + long + "s"), new([]map[string]string), true},
		"bytes as keys":          {list("}" + long + "Ns"), new([]map[string]any), true},
		"bytes as fields":        {list("}" + long + "Ns"), new([]row), true},
		"nested bytes":           {list("(" + long + "q\x01h\x01l"), new([][]string), true},
		"large ints as floats":   {list(binString(0x8b, "\x11", 30000)), new([]float64), false},
		"bytes that are no text": {list(binString('T', "\xff", 30000)), new([]string), false},
		"a key that is a tuple": {[]byte("\x80\x02}(" + binString('X', "a", 32000) + "q\x00" + strings.Repeat("h\x00", n-1) + "tK\x01s."),
			new(map[[n]string]string), false},
	} {
		v, err := Unmarshal(test.data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = Assign(test.dst, v)
		runtime.ReadMemStats(&after)
		if (err == nil) != test.ok || err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: %.500v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
			t.Errorf("%s: %d MiB", name, used>>20)
		}
	}
	// Many short ones: from some point on they are shared as well.
	inner := "(" + binString('T', "a", 200) + "q\x01" + strings.Repeat("h\x01", 999) + "l"
	v, err := Unmarshal([]byte("\x80\x02(" + inner + "q\x00" + strings.Repeat("h\x00", 999) + "l."))
	if err != nil {
		t.Fatal(err)
	}
	var dst [][]string
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = Assign(&dst, v)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; err != nil || used > 64<<20 || dst[999][999] != strings.Repeat("a", 200) {
		t.Errorf("%d MiB, %v", used>>20, err)
	}
	var f float64
	if err := Assign(&f, new(big.Int).Lsh(big.NewInt(1), 1023)); err != nil || f == 0 {
		t.Errorf("%v, %v", f, err)
	}
}

// TestAssignedTextIsItsOwn: bytes that are changed leave the text that was made of them as it was.
func TestAssignedTextIsItsOwn(t *testing.T) {
	b := []byte(strings.Repeat("a", 1000))
	var dst struct {
		Text  string
		Bytes []byte
		Again string
	}
	d := NewDict(3)
	for _, key := range []string{"Text", "Bytes", "Again"} {
		if err := d.Set(key, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := Assign(&dst, d); err != nil {
		t.Fatal(err)
	}
	dst.Bytes[0] = 'b'
	if dst.Text[0] != 'a' || dst.Again[0] != 'a' {
		t.Errorf("%.10q, %.10q", dst.Text, dst.Again)
	}
}

// TestKeywordsOfOneLongName: a name that is bytes becomes text each time that its dict does.
func TestKeywordsOfOneLongName(t *testing.T) {
	data := []byte("(cmitogen.core\nKwargs\nq\x00}" + binString('T', "a", 32000) + "Ns\x85q\x01R" + strings.Repeat("h\x00h\x01R", 5000) + "t.")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Unmarshal(data)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; err == nil || used > 16<<20 {
		t.Errorf("%d MiB, %v", used>>20, err)
	}
}

// TestNamesOfOneRecord: so it is with the names in a module's record.
func TestNamesOfOneRecord(t *testing.T) {
	data := []byte("(" + binString('X', "m", 1) + "(" + binString('T', "a", 32000) + "q\x00" + strings.Repeat("h\x00", 15000) + "l" +
		binString('X', "p", 1) + binString('T', "s", 1) + "]t.")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := ParseLoadModule(data)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; err != nil || len(m.Pkg) != 15001 || used > 16<<20 {
		t.Errorf("%d MiB, %v", used>>20, err)
	}
}
