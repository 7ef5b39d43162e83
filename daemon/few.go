package daemon

import "sync"

// few is a map for what mostly has one entry or none: the first takes no memory of its own. It is safe for concurrent
// use. Thousands of streams have some each.
type few[K, V comparable] struct {
	// mu protects the following. Nothing is locked under it.
	mu    sync.Mutex
	is    bool // key and value are an entry
	key   K
	value V
	more  map[K]V // the others; nil when there are none
}

func (f *few[K, V]) load(key K) (V, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.get(key)
}

// get is load. mu is held, as in set and remove.
func (f *few[K, V]) get(key K) (V, bool) {
	if f.is && f.key == key {
		return f.value, true
	}
	v, ok := f.more[key]
	return v, ok
}

func (f *few[K, V]) set(key K, value V) {
	switch _, there := f.more[key]; {
	case f.is && f.key == key, !f.is && !there:
		f.is, f.key, f.value = true, key, value
	case f.more == nil:
		f.more = map[K]V{key: value}
	default:
		f.more[key] = value
	}
}

func (f *few[K, V]) remove(key K) {
	if f.is && f.key == key {
		var none few[K, V]
		f.is, f.key, f.value = false, none.key, none.value
		return
	}
	if delete(f.more, key); len(f.more) == 0 {
		f.more = nil // a map does not shrink
	}
}

func (f *few[K, V]) store(key K, value V) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(key, value)
}

// add is store of what is not there yet, and tells whether it was not.
func (f *few[K, V]) add(key K, value V) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, there := f.get(key)
	if !there {
		f.set(key, value)
	}
	return !there
}

// swap is store if the value is the old one, and tells whether it was.
func (f *few[K, V]) swap(key K, old, value V) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, there := f.get(key)
	if there = there && v == old; there {
		f.set(key, value)
	}
	return there
}

// take deletes an entry, and gives what it was.
func (f *few[K, V]) take(key K) (V, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, there := f.get(key)
	f.remove(key)
	return v, there
}

func (f *few[K, V]) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.more)
	if f.is {
		n++
	}
	return n
}

// keys lists those of now.
func (f *few[K, V]) keys() []K {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := make([]K, 0, len(f.more)+1)
	if f.is {
		keys = append(keys, f.key)
	}
	for key := range f.more {
		keys = append(keys, key)
	}
	return keys
}
