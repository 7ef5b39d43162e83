package pyproto

import "unsafe"

// tupleN is TUPLE1 to TUPLE3.
func (d *decoder) tupleN(n int) error {
	from := len(d.stack) - n
	if from < d.floor() {
		return d.errorf("the stack is too short for a tuple")
	}
	if n <= 2 && from > 0 && d.stack[from-1].kind == kindGlobal && d.stack[from].kind != kindArgs {
		a := tuple{len: n}
		copy(a.slots[:], d.stack[from:])
		d.args = append(d.args, a)
		d.stack = d.stack[:from]
		d.push(kindArgs, uint64(len(d.args)-1))
		return nil
	}
	return d.makeTuple(from)
}

func (d *decoder) markTuple() error {
	from, err := d.popMark()
	if err != nil {
		return err
	}
	return d.makeTuple(from)
}

// makeTuple replaces the stack from there on by a tuple of it.
func (d *decoder) makeTuple(from int) error {
	items := d.stack[from:]
	vals := d.items.carve(len(items))
	sum, err := d.takeAll(vals, items, 1)
	if err != nil {
		return err
	}
	n, depth, err := d.check(sum)
	if err != nil {
		return err
	}
	d.stack = d.stack[:from]
	v := emptyTuple
	if len(vals) > 0 {
		v = d.tuple(vals)
	}
	d.value(v, n, depth)
	return nil
}

func (d *decoder) newList() { d.newBuilder(builder{n: 1, depth: 1}) }

func (d *decoder) newDict() { d.newBuilder(builder{dict: d.dicts.place(), n: 1, depth: 1}) }

func (d *decoder) newBuilder(b builder) {
	d.builders = append(d.builders, b)
	d.push(kindBuilder, uint64(len(d.builders)-1))
}

// builderBelow gives the list or dict under the items at from, which must still be open.
func (d *decoder) builderBelow(from int, dict bool) (*builder, error) {
	if from <= d.floor() || d.stack[from-1].kind != kindBuilder {
		return nil, d.errorf("items without a list or dict below them")
	}
	b := &d.builders[d.stack[from-1].bits]
	if (b.dict != nil) != dict {
		return nil, d.errorf("items for the wrong kind of container")
	}
	if b.sealed {
		return nil, d.errorf("recursive structures are not supported")
	}
	return b, nil
}

func (d *decoder) appendItem() error {
	from := len(d.stack) - 1
	if from < d.floor() {
		return d.errorf("the stack is empty")
	}
	return d.extend(from)
}

func (d *decoder) appendItems() error {
	from, err := d.popMark()
	if err != nil {
		return err
	}
	return d.extend(from)
}

// extend appends the stack from there on to the list below.
func (d *decoder) extend(from int) error {
	b, err := d.builderBelow(from, false)
	if err != nil {
		return err
	}
	items := d.stack[from:]
	if len(items) == 0 {
		return nil
	}
	var list []any
	if b.list == nil {
		list = d.items.carve(len(items))
	} else {
		list = append(*b.list, make([]any, len(items))...)
	}
	sum, err := d.takeAll(list[len(list)-len(items):], items, 1)
	if err != nil {
		return err
	}
	if b.sealed { // by one of its own items
		return d.errorf("recursive structures are not supported")
	}
	if b.list == nil {
		b.list = d.lists.place()
	}
	*b.list = list
	d.stack = d.stack[:from]
	return d.enlarge(b, sum)
}

func (d *decoder) enlarge(b *builder, sum size) error {
	n, depth, err := d.check(size{sum.n + uint64(b.n-1), max(sum.depth, b.depth-1)})
	b.n, b.depth = n, depth
	return err
}

func (d *decoder) setItem() error {
	from := len(d.stack) - 2
	if from < d.floor() {
		return d.errorf("the stack is too short for an item")
	}
	return d.update(from)
}

func (d *decoder) setItems() error {
	from, err := d.popMark()
	if err != nil {
		return err
	}
	return d.update(from)
}

// update stores the keys and values on the stack from there on in the dict below.
func (d *decoder) update(from int) error {
	b, err := d.builderBelow(from, true)
	if err != nil {
		return err
	}
	slots := d.stack[from:]
	if len(slots)%2 != 0 {
		return d.errorf("a key without a value")
	}
	dict := b.dict
	if dict.keys != nil {
		return d.mergeItems(b, from)
	}
	if len(slots) == 0 {
		return d.filled(b, from, size{})
	}
	vals := d.items.carve(len(slots) / 2)
	sum, err := d.takeAll(vals, slots[1:], 2)
	if err != nil {
		return err
	}
	if !d.sameKeys(slots) {
		if err := d.newKeys(dict, vals, slots); err != nil {
			return err
		}
	} else {
		d.lastKeys.shared = true
		dict.keys, dict.vals = d.lastKeys, vals
	}
	for i := 0; i < len(slots); i += 2 {
		sum.add(d.sizeOf(slots[i]))
	}
	return d.filled(b, from, sum)
}

// newKeys fills an empty dict.
func (d *decoder) newKeys(dict *Dict, vals []any, slots []slot) error {
	n := len(vals)
	d.held += 2 * uint64(n)
	k := &dictKeys{list: d.items.carve(n)[:0]}
	if n > smallDict {
		k.grow(2 * n)
	}
	dict.keys, dict.vals = k, vals[:0]
	for i := range vals {
		key, err := d.takeKey(slots[2*i])
		if err != nil {
			return err
		}
		// This writes to the memory that it reads, never ahead of it.
		if err := dict.put(key, vals[i], &d.meter); err != nil || d.meter.over() {
			return d.badKey(key)
		}
	}
	if len(k.list) == n {
		d.lastKeys = k
		d.keySlots = d.keySlots[:0]
		for i := range n {
			d.keySlots = append(d.keySlots, slots[2*i])
		}
	}
	return nil
}

// takeKey is take for a key of a dict.
func (d *decoder) takeKey(s slot) (any, error) {
	key, err := d.take(s)
	if err == nil && d.sizeOf(s).depth > maxKeyDepth {
		err = d.badKey(key)
	}
	return key, err
}

func (d *decoder) badKey(key any) error {
	if d.meter.over() {
		return d.errorf("shared references in keys stand for more than %d values", MaxShared)
	}
	return d.errorf("a value of type %T cannot be a dict key", key)
}

// mergeItems is update for a dict that has entries already.
func (d *decoder) mergeItems(b *builder, from int) error {
	d.keySlots = d.keySlots[:0] // the keys that they stand for may get more
	slots := d.stack[from:]
	d.held += uint64(len(slots))
	var sum size
	for i := 0; i < len(slots); i += 2 {
		key, err := d.takeKey(slots[i])
		if err != nil {
			return err
		}
		val, err := d.take(slots[i+1])
		if err != nil {
			return err
		}
		if err := b.dict.put(key, val, &d.meter); err != nil || d.meter.over() {
			return d.badKey(key)
		}
		sum.add(d.sizeOf(slots[i]))
		sum.add(d.sizeOf(slots[i+1]))
	}
	return d.filled(b, from, sum)
}

// filled ends an update: the items from there on are in the dict.
func (d *decoder) filled(b *builder, from int, sum size) error {
	if b.sealed { // by one of its own items
		return d.errorf("recursive structures are not supported")
	}
	d.stack = d.stack[:from]
	return d.enlarge(b, sum)
}

// sameKeys reports whether the items have the very keys of the dict before, by reference to the memo: rows of a table
// do. Such keys need no check for doubles, and are not stored twice.
func (d *decoder) sameKeys(items []slot) bool {
	if len(items) != 2*len(d.keySlots) || len(items) == 0 {
		return false
	}
	for i := range d.keySlots {
		if items[2*i] != d.keySlots[i] {
			return false
		}
	}
	return true
}

// global is GLOBAL, STACK_GLOBAL and INST: a name of the allow-list, or an error that tells which one it was.
func (d *decoder) global(op byte) error {
	var module, name []byte
	if op == opStackGlobal {
		from := len(d.stack) - 2
		if from < d.floor() {
			return d.errorf("the stack is too short for a global")
		}
		var ok1, ok2 bool
		module, ok1 = d.rawText(d.stack[from])
		name, ok2 = d.rawText(d.stack[from+1])
		if !ok1 || !ok2 {
			return d.errorf("a global's name is no text")
		}
		d.stack = d.stack[:from]
	} else {
		var err error
		if module, err = d.nextLine(); err != nil {
			return err
		}
		if name, err = d.nextLine(); err != nil {
			return err
		}
	}
	g := lookupGlobal(module, name)
	if g == globalNone || op == opInst {
		return &GlobalError{Module: quoteBytes(module), Name: quoteBytes(name)}
	}
	d.push(kindGlobal, uint64(g))
	return nil
}

// rawText gives the UTF-8 of a text without a copy. It must not be written to.
func (d *decoder) rawText(s slot) ([]byte, bool) {
	switch s.kind {
	case kindText:
		return d.data[s.bits : s.bits+uint64(s.n)], true
	case kindRef:
		t, ok := d.values[s.bits].(string)
		return unsafe.Slice(unsafe.StringData(t), len(t)), ok
	}
	return nil, false
}

// reduce calls the global below the topmost tuple.
func (d *decoder) reduce() error {
	from := len(d.stack) - 2
	if from < d.floor() {
		return d.errorf("the stack is too short for a call")
	}
	callee, top := d.stack[from], d.stack[from+1]
	if callee.kind != kindGlobal {
		return d.errorf("a call of what is no global")
	}
	g := global(callee.bits)
	var args []slot
	switch top.kind {
	case kindArgs:
		a := &d.args[top.bits]
		args = a.slots[:a.len]
	case kindRef:
		vals, ok := d.values[top.bits].(Tuple)
		if !ok || len(vals) > 2 {
			return d.errorf("bad arguments for global %v", g)
		}
		// Each argument counts as much as all of them, which is on the safe side.
		for _, v := range vals {
			d.value(v, top.n, top.depth)
		}
		args = d.stack[from+2:]
	default:
		return d.errorf("bad arguments for global %v", g)
	}
	v, err := d.call(g, args)
	if err != nil {
		return err
	}
	var sum size
	for _, arg := range args {
		sum.add(d.sizeOf(arg))
	}
	n, depth, err := d.check(sum)
	if err != nil {
		return err
	}
	d.stack = d.stack[:from]
	d.value(v, n, depth)
	return nil
}
