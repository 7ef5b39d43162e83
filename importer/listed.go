package importer

import "bytes"

// Bounds of what is remembered of one source.
const (
	maxLists      = 50
	maxListLength = 200
	maxListedName = 100
)

// listedNames finds names with dots, of modules perhaps, that stand beside each other in a source as texts, with nothing but commas, line
// ends and comments between them.
func listedNames(src []byte) (lists [][]string) {
	var list []string
	flush := func() {
		if len(list) > 1 && len(lists) < maxLists {
			lists = append(lists, list)
		}
		list = nil
	}
	end := 0 // of the last one
	for at := 0; at < len(src); {
		i := bytes.IndexAny(src[at:], "'\"#")
		if i < 0 {
			break
		}
		if at += i; src[at] == '#' {
			if i = bytes.IndexByte(src[at:], '\n'); i < 0 {
				break
			}
			at += i
			continue
		}
		name, length := quotedName(src[at:])
		if name == "" {
			at++
			continue
		}
		if !onlySpace(src[end:at]) {
			flush()
		}
		if len(list) < maxListLength {
			list = append(list, name)
		}
		at += length
		end = at
	}
	flush()
	return lists
}

// quotedName reads a text that is a name with a dot in it; "" if it is none.
func quotedName(src []byte) (name string, length int) {
	quote, dots := src[0], 0
	for i := 1; i < len(src) && i < maxListedName; i++ {
		switch c := src[i]; {
		case c == quote:
			if dots == 0 || src[i-1] == '.' {
				return "", 0
			}
			return string(src[1:i]), i + 1
		case c == '.' && (i == 1 || src[i-1] == '.'):
			return "", 0
		case c == '.':
			dots++
		case !wordChars[c]:
			return "", 0
		}
	}
	return "", 0
}

// onlySpace tells whether there is nothing but commas, white space and comments.
func onlySpace(src []byte) bool {
	for i := 0; i < len(src); i++ {
		switch src[i] {
		case ' ', '\t', '\r', '\n', ',':
		case '#':
			n := bytes.IndexByte(src[i:], '\n')
			if n < 0 {
				return true
			}
			i += n
		default:
			return false
		}
	}
	return true
}
