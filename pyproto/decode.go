package pyproto

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"unsafe"
)

// Limits of decoding. Memory is bounded by the input: what an opcode creates is at most a fixed number of bytes for
// each byte that it takes up.
const (
	// MaxDepth is how deeply containers may be nested, in both directions. Python's own picklers end at about 1,000.
	MaxDepth = 2000
	// MaxShared is how many values a pickle may stand for beyond its length in bytes, when every shared reference is
	// followed. Without a limit a few hundred bytes can describe a structure that nobody can walk.
	MaxShared = 1 << 24
	// MaxTables and TablesFactor bound the memory for the values themselves, which may be a byte each in a pickle: so
	// many bytes, and as many more for each byte of it. Text and bytes, copied once at most, are beside that.
	MaxTables    = 256 << 20
	TablesFactor = 8
)

// window is how many bytes are decoded between two looks at the limits and the context.
const window = 1 << 16

// DecodeOptions change how a pickle is read. The zero value is what Unmarshal uses.
type DecodeOptions struct {
	// Alias lets bytes and text in the result share the memory of the input where the pickle holds them as they are.
	// The caller must never change the input again, and keeps all of it in memory as long as it keeps a part of the
	// result.
	Alias bool

	// tables stands for MaxTables, where a test needs a smaller one.
	tables uint64
}

// Unmarshal decodes a payload that is exactly one pickle. The package comment has the table of types.
func Unmarshal(data []byte) (any, error) { return DecodeOptions{}.Unmarshal(data) }

// UnmarshalPrefix decodes the pickle at the start of data and returns what follows it.
func UnmarshalPrefix(data []byte) (v any, rest []byte, err error) {
	return DecodeOptions{}.UnmarshalPrefix(data)
}

// Unmarshal is like the function of that name.
func (o DecodeOptions) Unmarshal(data []byte) (any, error) {
	return o.UnmarshalContext(context.Background(), data)
}

// UnmarshalContext is Unmarshal until ctx ends; it looks about every millisecond. The error wraps the cause of ctx
// then.
func (o DecodeOptions) UnmarshalContext(ctx context.Context, data []byte) (any, error) {
	v, rest, err := o.unmarshal(ctx, data)
	if err == nil && len(rest) != 0 {
		return nil, fmt.Errorf("pyproto: %d bytes after the end of the pickle", len(rest))
	}
	return v, err
}

// UnmarshalPrefix is like the function of that name.
func (o DecodeOptions) UnmarshalPrefix(data []byte) (v any, rest []byte, err error) {
	return o.unmarshal(context.Background(), data)
}

func (o DecodeOptions) unmarshal(ctx context.Context, data []byte) (v any, rest []byte, err error) {
	if uint64(len(data)) > math.MaxUint32 {
		return nil, data, errors.New("pyproto: a pickle of more than 4 GiB")
	}
	d := decoders.Get().(*decoder)
	d.ctx, d.data, d.opts = ctx, data, o
	d.meter.left = valueWork * (int64(len(data)) + MaxShared)
	v, err = d.run()
	rest = data[d.pos:]
	d.release()
	if err != nil {
		return nil, data, err
	}
	return v, rest, nil
}

// Boxed once, and not nil, so that they print as what they are.
var (
	emptyTuple any = Tuple{}
	emptyList  any = []any{}
	emptyBytes any = []byte{}
)

// kind says what a slot holds.
type kind uint8

const (
	kindUnset   kind = iota // a number of the memo that was not stored to
	kindNone                // None
	kindBool                // bits is 0 or 1
	kindInt                 // bits is an int64
	kindFloat               // bits is a float64's
	kindText                // data[bits:bits+n], not copied or checked yet
	kindBytes               // the same for bytes
	kindArgs                // args[bits], a tuple of one or two above a global
	kindRef                 // values[bits]; from here on a reference needs no more than the slot, see share
	kindBuilder             // builders[bits], a list or a dict that may still grow
	kindGlobal              // bits is a global
)

// slot is an entry of the stack or the memo. It has no pointers: the collector has nothing to do with either, and
// what is popped needs no clearing. A value gets its Go form when it is put in its container.
type slot struct {
	bits uint64
	// n is a length, see the kinds. For a kindRef it is how many values the value stands for, itself included.
	n     uint32
	depth uint16 // nesting of a kindRef
	kind  kind
}

// builder is a list or dict under construction. It becomes a value when it is first used inside another one. From
// then on it is sealed: a pickle that changes it later describes a structure that contains itself.
type builder struct {
	list   *[]any // nil while it is empty
	dict   *Dict  // nil for a list
	n      uint32
	depth  uint16
	sealed bool
}

// tuple holds the arguments of a call; building a real tuple is saved nearly always.
type tuple struct {
	slots [2]slot
	len   int
}

type decoder struct {
	ctx  context.Context
	data []byte
	pos  int
	opts DecodeOptions

	stack    []slot
	marks    []int
	memo     []slot
	args     []tuple
	builders []builder
	values   []any

	// arena is where short strings are cut from, and used how much of it is taken.
	arena []byte
	used  int
	// scratch is where latin1 writes, before it is known how much that will be. At most maxScratch bytes.
	scratch []byte
	// lastKeys are those of the dict before, and keySlots what they were on the stack. See sameKeys.
	lastKeys *dictKeys
	keySlots []slot
	meter    meter
	held     uint64 // items of containers so far
	again    uint64 // see repeat
	// shared has the values of texts and bytes that the memo refers to, by their place in data, see share.
	shared map[uint64]uint64
	boxes
}

var decoders = sync.Pool{New: func() any {
	return &decoder{stack: make([]slot, 0, 64), memo: make([]slot, 0, 64)}
}}

// maxKept bounds the slices that a pooled decoder keeps.
const maxKept = 1 << 14

// release returns d to the pool without a reference to what it decoded.
func (d *decoder) release() {
	if cap(d.stack) > maxKept || cap(d.memo) > maxKept || cap(d.builders) > maxKept || cap(d.marks) > maxKept ||
		cap(d.values) > maxKept || cap(d.args) > maxKept || cap(d.keySlots) > maxKept {
		return
	}
	clear(d.memo)
	clear(d.builders)
	clear(d.values)
	*d = decoder{
		stack: d.stack[:0], marks: d.marks[:0], memo: d.memo[:0], args: d.args[:0], builders: d.builders[:0],
		values: d.values[:0], keySlots: d.keySlots[:0], scratch: d.scratch,
	}
	decoders.Put(d)
}

func (d *decoder) errorf(format string, args ...any) error {
	return fmt.Errorf("pyproto: pickle at byte %d: %s", d.pos, fmt.Sprintf(format, args...))
}

func (d *decoder) truncated() error {
	return fmt.Errorf("pyproto: pickle of %d bytes is truncated", len(d.data))
}

// push pushes what needs no more than its bits.
func (d *decoder) push(k kind, bits uint64) {
	d.stack = append(d.stack, slot{bits: bits, kind: k})
}

// value pushes a value in its Go form.
func (d *decoder) value(v any, n uint32, depth uint16) {
	d.values = append(d.values, v)
	d.stack = append(d.stack, slot{bits: uint64(len(d.values) - 1), n: n, depth: depth, kind: kindRef})
}

// run reads opcodes up to STOP.
func (d *decoder) run() (any, error) {
	for {
		v, done, err := d.runTo(min(len(d.data), d.pos+window))
		if done || err != nil {
			return v, err
		}
		if d.pos == len(d.data) {
			return nil, d.truncated()
		}
		if err := d.pause(); err != nil {
			return nil, err
		}
	}
}

// pause is done every so many bytes. A byte adds at most one entry to a table, so that what is checked here is not
// far exceeded.
func (d *decoder) pause() error {
	if d.ctx.Err() != nil {
		return fmt.Errorf("pyproto: decoding was given up: %w", context.Cause(d.ctx))
	}
	used := 16*(uint64(len(d.stack))+uint64(len(d.memo))+uint64(len(d.values))+d.held) +
		uint64(unsafe.Sizeof(builder{})+unsafe.Sizeof(Dict{}))*uint64(len(d.builders)) +
		uint64(unsafe.Sizeof(tuple{}))*uint64(len(d.args)) + 8*uint64(len(d.marks))
	if used > d.maxTables() {
		return d.errorf("its values take more than %d MB", d.maxTables()>>20)
	}
	// Large tables are doubled here, so that little is left to the collector.
	d.stack, d.memo, d.values = ample(d.stack), ample(d.memo), ample(d.values)
	d.builders, d.marks = ample(d.builders), ample(d.marks)
	return nil
}

func (d *decoder) maxTables() uint64 {
	return cmp.Or(d.opts.tables, MaxTables) + TablesFactor*uint64(len(d.data))
}

func ample[T any](table []T) []T {
	if n := len(table); n >= window && cap(table)-n < window {
		return slices.Grow(table, n)
	}
	return table
}

// repeat counts bytes that are made anew of what the memo has. Picklers have no more of that than the input is long.
func (d *decoder) repeat(n int) error {
	if d.again += uint64(n); d.again > uint64(len(d.data))+window {
		return d.errorf("calls make more of it than it has")
	}
	return nil
}

// runTo reads opcodes up to that place or STOP. Those that most of a pickle consists of are done here, with the state
// in local variables. All others, and whatever is wrong with these, are left to step.
func (d *decoder) runTo(end int) (v any, done bool, err error) {
	data, pos, stack, memo := d.data, d.pos, d.stack, d.memo
	for pos < end {
		op := data[pos]
		pos++
		left := data[pos:]
		switch op {
		case opBinPut:
			if len(left) == 0 || len(stack) == 0 {
				break
			}
			n := int(left[0])
			if n == len(memo) && n < cap(memo) {
				memo = memo[:n+1]
			}
			if n < len(memo) {
				memo[n] = stack[len(stack)-1]
				pos++
				continue
			}
		case opLongBinPut:
			if len(left) < 4 || len(stack) == 0 {
				break
			}
			n := uint(binary.LittleEndian.Uint32(left)) // an int may have 32 bits
			if n == uint(len(memo)) && n < uint(cap(memo)) {
				memo = memo[:n+1]
			}
			if n < uint(len(memo)) {
				memo[n] = stack[len(stack)-1]
				pos += 4
				continue
			}
		case opMemoize:
			if n := len(memo); n < cap(memo) && len(stack) != 0 {
				memo = memo[:n+1]
				memo[n] = stack[len(stack)-1]
				continue
			}
		case opBinGet:
			if len(left) == 0 || int(left[0]) >= len(memo) {
				break
			}
			if s := memo[left[0]]; s.kind >= kindRef {
				stack = append(stack, s)
				pos++
				continue
			}
		case opBinUnicode:
			if len(left) < 4 {
				break
			}
			if n := binary.LittleEndian.Uint32(left); uint64(n) <= uint64(len(left)-4) {
				stack = append(stack, slot{bits: uint64(pos + 4), n: n, kind: kindText})
				pos += 4 + int(n)
				continue
			}
		case opShortBinString, opShortBinBytes, opShortBinUnicode:
			if len(left) == 0 || int(left[0]) >= len(left) {
				break
			}
			k := kindBytes
			if op == opShortBinUnicode {
				k = kindText
			}
			stack = append(stack, slot{bits: uint64(pos + 1), n: uint32(left[0]), kind: k})
			pos += 1 + int(left[0])
			continue
		case opBinInt1:
			if len(left) >= 1 {
				stack = append(stack, slot{bits: uint64(left[0]), kind: kindInt})
				pos++
				continue
			}
		case opBinInt2:
			if len(left) >= 2 {
				stack = append(stack, slot{bits: uint64(binary.LittleEndian.Uint16(left)), kind: kindInt})
				pos += 2
				continue
			}
		case opBinInt:
			if len(left) >= 4 {
				n := int64(int32(binary.LittleEndian.Uint32(left)))
				stack = append(stack, slot{bits: uint64(n), kind: kindInt})
				pos += 4
				continue
			}
		case opBinFloat:
			if len(left) >= 8 {
				stack = append(stack, slot{bits: binary.BigEndian.Uint64(left), kind: kindFloat})
				pos += 8
				continue
			}
		case opNone:
			stack = append(stack, slot{kind: kindNone})
			continue
		case opNewTrue:
			stack = append(stack, slot{bits: 1, kind: kindBool})
			continue
		case opNewFalse:
			stack = append(stack, slot{kind: kindBool})
			continue
		case opMark:
			d.marks = append(d.marks, len(stack))
			continue
		}
		d.pos, d.stack, d.memo = pos, stack, memo
		if op == opStop {
			v, err := d.stop()
			return v, true, err
		}
		if err := d.step(op); err != nil {
			return nil, false, err
		}
		pos, stack, memo = d.pos, d.stack, d.memo
	}
	d.pos, d.stack, d.memo = pos, stack, memo
	return nil, false, nil
}

// step does one opcode: any that run has left.
func (d *decoder) step(op byte) error {
	switch op {
	case opTuple1, opTuple2, opTuple3:
		return d.tupleN(int(op-opTuple1) + 1)
	case opEmptyTuple:
		d.value(emptyTuple, 1, 1)
		return nil
	case opEmptyList:
		d.newList()
		return nil
	case opEmptyDict:
		d.newDict()
		return nil
	case opAppend:
		return d.appendItem()
	case opAppends:
		return d.appendItems()
	case opSetItem:
		return d.setItem()
	case opSetItems:
		return d.setItems()
	case opTuple:
		return d.markTuple()
	case opReduce:
		return d.reduce()
	case opMemoize:
		return d.put(uint(len(d.memo)))
	}
	return d.withData(op)
}

// withData does the opcodes that carry data.
func (d *decoder) withData(op byte) error {
	if info := &opTable[op]; info.name == "" {
		d.pos--
		return d.errorf("byte %#02x is no opcode", op)
	}
	switch op {
	case opBinInt1, opBinInt2, opBinInt, opBinFloat:
		return d.truncated() // run has done all others
	case opLong1, opLong4:
		return d.long(op)
	case opInt, opLong, opFloat, opString, opUnicode, opPut, opGet:
		return d.line(op)
	case opShortBinString, opShortBinBytes, opShortBinUnicode, opBinUnicode:
		return d.truncated()
	case opBinString, opBinBytes:
		return d.raw(kindBytes, 4)
	case opBinBytes8, opByteArray8:
		return d.raw(kindBytes, 8)
	case opBinUnicode8:
		return d.raw(kindText, 8)
	case opGlobal, opInst, opStackGlobal:
		return d.global(op)
	case opBinPut, opBinGet:
		b, err := d.next(1)
		if err != nil {
			return err
		}
		if op == opBinGet {
			return d.get(uint(b[0]))
		}
		return d.put(uint(b[0]))
	case opLongBinPut, opLongBinGet:
		b, err := d.next(4)
		if err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(b)
		if op == opLongBinGet {
			return d.get(uint(n))
		}
		return d.put(uint(n))
	case opProto:
		b, err := d.next(1)
		if err == nil && b[0] > 5 {
			err = d.errorf("unknown pickle protocol %d", b[0])
		}
		return err
	case opFrame:
		b, err := d.next(8)
		if err == nil && binary.LittleEndian.Uint64(b) > uint64(len(d.data)-d.pos) {
			err = d.truncated()
		}
		return err
	case opList, opDict, opPop, opPopMark, opDup:
		return d.rare(op)
	}
	return d.errorf("a value that needs the opcode %s cannot be sent", opTable[op].name)
}

// rare does the stack opcodes of protocol 0 and of structures that contain themselves.
func (d *decoder) rare(op byte) error {
	switch op {
	case opList, opDict:
		from, err := d.popMark()
		if err != nil {
			return err
		}
		// The new container goes below its items, and what follows is as for protocol 1.
		d.marks = append(d.marks, from+1)
		d.stack = append(d.stack, slot{})
		copy(d.stack[from+1:], d.stack[from:])
		top := len(d.stack)
		if op == opDict {
			d.newDict()
		} else {
			d.newList()
		}
		d.stack[from] = d.stack[top]
		d.stack = d.stack[:top]
		if op == opDict {
			return d.setItems()
		}
		return d.appendItems()
	case opPopMark:
		from, err := d.popMark()
		if err == nil {
			d.stack = d.stack[:from]
		}
		return err
	}
	top := len(d.stack) - 1
	if op == opPop && top < d.floor() && len(d.marks) > 0 {
		d.marks = d.marks[:len(d.marks)-1] // as CPython does
		return nil
	}
	if top < d.floor() {
		return d.errorf("the stack is empty")
	}
	if op == opPop {
		d.stack = d.stack[:top]
		return nil
	}
	if err := d.share(&d.stack[top]); err != nil {
		return err
	}
	d.stack = append(d.stack, d.stack[top])
	return nil
}

func (d *decoder) stop() (any, error) {
	if len(d.stack) != 1 || len(d.marks) != 0 {
		return nil, d.errorf("%d values are left at the end", len(d.stack))
	}
	return d.take(d.stack[0])
}

// next gives the next n bytes of the input.
func (d *decoder) next(n int) ([]byte, error) {
	if n > len(d.data)-d.pos {
		return nil, d.truncated()
	}
	b := d.data[d.pos : d.pos+n]
	d.pos += n
	return b, nil
}

// sizedBy reads the length of an opcode's data, which has width bytes, and gives the data's place.
func (d *decoder) sizedBy(width int) (from, n int, err error) {
	left := d.data[d.pos:]
	if len(left) < width {
		return 0, 0, d.truncated()
	}
	var size uint64
	switch width {
	case 1:
		size = uint64(left[0])
	case 4:
		size = uint64(binary.LittleEndian.Uint32(left))
	default:
		size = binary.LittleEndian.Uint64(left)
	}
	if size > uint64(len(left)-width) {
		return 0, 0, d.truncated()
	}
	from = d.pos + width
	d.pos = from + int(size)
	return from, int(size), nil
}

// raw pushes a reference to the data of an opcode.
func (d *decoder) raw(k kind, width int) error {
	from, n, err := d.sizedBy(width)
	if err != nil {
		return err
	}
	d.stack = append(d.stack, slot{bits: uint64(from), n: uint32(n), kind: k})
	return nil
}

// put stores the top of the stack in the memo. Every pickler numbers its memo in sequence and spends at least a byte on
// each value, so a number beyond the input's length is an attempt to make us allocate.
func (d *decoder) put(n uint) error {
	if len(d.stack) == 0 {
		return d.errorf("the stack is empty")
	}
	if n >= uint(len(d.memo)) {
		if n > uint(len(d.data)) {
			return d.errorf("memo number %d in a pickle of %d bytes", n, len(d.data))
		}
		for n >= uint(cap(d.memo)) {
			d.memo = append(d.memo[:cap(d.memo)], slot{})
		}
		d.memo = d.memo[:n+1]
	}
	d.memo[n] = d.stack[len(d.stack)-1]
	return nil
}

func (d *decoder) get(n uint) error {
	if n >= uint(len(d.memo)) || d.memo[n].kind == kindUnset {
		return d.errorf("memo number %d was never stored", n)
	}
	s := &d.memo[n]
	if err := d.share(s); err != nil {
		return err
	}
	d.stack = append(d.stack, *s)
	return nil
}

// share prepares something for being used more than once: what has to be copied is copied here, once.
func (d *decoder) share(s *slot) error {
	n, depth := uint32(1), uint16(0)
	var err error
	switch s.kind {
	case kindText, kindBytes:
		if i, ok := d.shared[s.bits]; ok {
			*s = slot{bits: i, n: 1, kind: kindRef}
			return nil
		}
	case kindArgs:
		sum := d.sizeOf(*s)
		if n, depth, err = d.check(size{sum.n - 1, sum.depth - 1}); err != nil {
			return err
		}
	default:
		return nil
	}
	v, err := d.take(*s)
	if err != nil {
		return err
	}
	i := uint64(len(d.values))
	switch {
	case s.kind == kindArgs || s.n < shareFrom:
		d.values = append(d.values, v)
	case s.n < internFrom:
		d.values = append(d.values, v)
		d.remember(s.bits, i)
	default:
		i = d.shared[s.bits] // take has stored it
	}
	*s = slot{bits: i, n: n, depth: depth, kind: kindRef}
	return nil
}

// A pickle may store a text under any number of memo numbers before it is first used. Short ones are copied for each;
// from shareFrom on the copy is remembered when the memo is used, from internFrom on always.
const (
	shareFrom  = 32
	internFrom = 512
)

// remember notes that the text or bytes at that place of data are that value.
func (d *decoder) remember(place, i uint64) {
	if d.shared == nil {
		d.shared = map[uint64]uint64{}
	}
	d.shared[place] = i
}

// popMark takes the topmost mark and gives the height of the stack at that time.
func (d *decoder) popMark() (int, error) {
	n := len(d.marks) - 1
	if n < 0 {
		return 0, d.errorf("no mark on the stack")
	}
	from := d.marks[n]
	d.marks = d.marks[:n]
	if from > len(d.stack) {
		return 0, d.errorf("the stack is shorter than its mark")
	}
	return from, nil
}

// floor is the height below which the opcode at hand may not take: the topmost mark.
func (d *decoder) floor() int {
	if n := len(d.marks); n > 0 {
		return d.marks[n-1]
	}
	return 0
}

// size is how many values something stands for, and how deep it is.
type size struct {
	n     uint64
	depth uint16
}

func (s *size) add(t size) {
	s.n += t.n
	s.depth = max(s.depth, t.depth)
}

// check adds the container itself, and refuses what is too deep or stands for too much.
func (d *decoder) check(s size) (uint32, uint16, error) {
	if s.depth >= MaxDepth {
		return 0, 0, d.errorf("nested deeper than %d", MaxDepth)
	}
	if s.n+1 > min(uint64(len(d.data))+MaxShared, math.MaxUint32) {
		return 0, 0, d.errorf("shared references stand for more than %d values", MaxShared)
	}
	return uint32(s.n + 1), s.depth + 1, nil
}

// take gives the value of a slot its Go form, for use inside another value or as the result.
func (d *decoder) take(s slot) (any, error) {
	switch s.kind {
	case kindNone:
		return nil, nil
	case kindBool:
		return s.bits != 0, nil
	case kindInt:
		return d.int(int64(s.bits)), nil
	case kindFloat:
		return d.float(math.Float64frombits(s.bits)), nil
	case kindText, kindBytes:
		return d.takeText(s)
	case kindRef:
		return d.values[s.bits], nil
	case kindBuilder:
		return d.builders[s.bits].seal(), nil
	case kindArgs:
		a := &d.args[s.bits]
		vals := d.items.carve(a.len)
		_, err := d.takeAll(vals, a.slots[:a.len], 1)
		return d.tuple(vals), err
	case kindGlobal:
		return nil, d.errorf("global %v is used as a value", global(s.bits))
	}
	return nil, d.errorf("no value")
}

// takeText is take for text and bytes. Long ones are one value wherever they are used.
func (d *decoder) takeText(s slot) (v any, err error) {
	if s.n >= internFrom {
		if i, ok := d.shared[s.bits]; ok {
			return d.values[i], nil
		}
	}
	if s.kind == kindBytes {
		v = d.byteString(int(s.bits), int(s.n))
	} else if v, err = d.text(int(s.bits), int(s.n)); err != nil {
		return nil, err
	}
	if s.n >= internFrom {
		d.remember(s.bits, uint64(len(d.values)))
		d.values = append(d.values, v)
	}
	return v, nil
}

// sizeOf gives the size of a slot's value.
func (d *decoder) sizeOf(s slot) size {
	switch s.kind {
	case kindRef:
		return size{uint64(s.n), s.depth}
	case kindBuilder:
		b := &d.builders[s.bits]
		return size{uint64(b.n), b.depth}
	case kindArgs:
		a := &d.args[s.bits]
		sum := size{n: 1}
		for _, arg := range a.slots[:a.len] {
			sum.add(d.sizeOf(arg))
		}
		sum.depth++
		return sum
	}
	return size{n: 1}
}

// seal gives the finished container.
func (b *builder) seal() any {
	b.sealed = true
	switch {
	case b.dict != nil:
		return b.dict
	case b.list == nil:
		return emptyList
	}
	return asList(b.list)
}

// takeAll stores in dst the values of every step-th slot, and gives the sum of their sizes.
func (d *decoder) takeAll(dst []any, slots []slot, step int) (sum size, err error) {
	d.held += uint64(len(dst))
	for i := range dst {
		s := slots[i*step]
		switch s.kind {
		case kindInt:
			dst[i] = d.int(int64(s.bits))
			sum.n++
		case kindText:
			if s.n >= internFrom {
				dst[i], err = d.takeText(s)
			} else {
				dst[i], err = d.text(int(s.bits), int(s.n))
			}
			if err != nil {
				return size{}, err
			}
			sum.n++
		case kindRef:
			dst[i] = d.values[s.bits]
			sum.add(size{uint64(s.n), s.depth})
		default:
			if dst[i], err = d.take(s); err != nil {
				return size{}, err
			}
			sum.add(d.sizeOf(s))
		}
	}
	return sum, nil
}
