package pyproto

import (
	"encoding/binary"
	"unsafe"
)

const (
	highBits = 0x8080808080808080
)

// latin1 turns UTF-8 text with characters up to 255 into one byte for each. It writes to dst, which has at least len(s)
// bytes, and returns the number of characters. It returns false for any other text.
func latin1(dst, s []byte) (n int, ok bool) {
	i, k, ok := latin1Words(dst, s)
	if !ok {
		return 0, false
	}
	var lead byte
	for ; i < len(s); i++ {
		c := s[i]
		if (c < 0x80) == (lead == 0) && c&0xc0 != 0xc0 {
			dst[k] = c | lead<<6
			k++
			lead = 0
			continue
		}
		if lead != 0 || c&0xfe != 0xc2 {
			return 0, false
		}
		lead = c
	}
	return k, lead == 0
}

// latin1Words does the whole words of src, and returns how far it got in both, at the start of a character.
// Compressed data is half ASCII and half not, at random, which rules out a branch for each byte; and it is what most
// of a module's record consists of.
func latin1Words(dst, src []byte) (i, k int, ok bool) {
	// Each word is looked at together with the bytes one place before it, so the first character goes ahead.
	if len(src) < 16 || len(dst) < len(src) {
		return 0, 0, true
	}
	if c := src[0]; c < 0x80 {
		dst[0] = c
		i, k = 1, 1
	} else {
		if c&0xfe != 0xc2 || src[1]&0xc0 != 0x80 {
			return 0, 0, false
		}
		dst[0] = src[1] | c<<6
		i, k = 2, 1
	}
	// The condition of the loop keeps i+8 in bounds, and k+8 with it, which the compiler cannot see.
	from, to := unsafe.Pointer(unsafe.SliceData(src)), unsafe.Pointer(unsafe.SliceData(dst))
	var bad uint64
	for i <= len(src)-8 {
		p := binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(from, i-1))[:])
		x := binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(from, i))[:])
		i += 8
		after := p & (p << 1) & highBits  // bytes after a byte 11xxxxxx
		leads := x & (x << 1) & highBits  // bytes 11xxxxxx
		bad |= x&highBits ^ leads ^ after // bytes 10xxxxxx stand after those, and nowhere else
		ones := leads >> 7
		isLead := leads<<1 - ones                                     // the same as whole bytes
		bad |= (x ^ 0x0202020202020202) & 0x3e3e3e3e3e3e3e3e & isLead // they are C2 or C3
		x |= p & (after >> 7) << 6                                    // after a C3 the character is 64 higher
		x &^= isLead

		t := &squeeze[ones*0x0102040810204080>>56]
		m := x & t.by1
		x = x ^ m | m>>8
		m = x & t.by2
		x = x ^ m | m>>16
		m = x & t.by4
		x = x ^ m | m>>32
		binary.LittleEndian.PutUint64((*[8]byte)(unsafe.Add(to, k))[:], x)
		k += t.keep
	}
	if src[i-1] >= 0xc0 { // the first half of a character
		i--
	}
	return i, k, bad == 0
}

// squeezeStep tells how to close the gaps of a word: which bytes move down by one place, then by two, then by four.
type squeezeStep struct {
	by1, by2, by4 uint64
	keep          int // bytes that are left
}

// squeeze has the steps for each set of bytes that are gaps.
var squeeze = func() (table [256]squeezeStep) {
	for gaps := range table {
		t := &table[gaps]
		below := 0 // gaps below the byte at hand: the way that it has to go
		for i := range 8 {
			if gaps>>i&1 != 0 {
				below++
				continue
			}
			t.keep++
			pos := i
			for step, mask := range []*uint64{&t.by1, &t.by2, &t.by4} {
				if below>>step&1 != 0 {
					*mask |= 0xff << (8 * pos)
					pos -= 1 << step
				}
			}
		}
	}
	return table
}()
