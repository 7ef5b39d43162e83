package inventory

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mitogend/pyproto/printable"
)

// maxRange bounds what one name with ranges stands for.
const maxRange = 1 << 17

// expandRanges gives the names that web[01:20], db-[a:f] or x[1:9:2][0:3] stands for.
func expandRanges(s string) ([]string, error) {
	i := strings.IndexByte(s, '[')
	if i < 0 {
		return []string{s}, nil
	}
	n := strings.IndexByte(s[i:], ']')
	if n < 0 || !strings.Contains(s[i:i+n], ":") {
		return nil, fmt.Errorf("%s: a range is written [FIRST:LAST] or [FIRST:LAST:STEP]", quoted(s))
	}
	items, err := rangeItems(s[i+1 : i+n])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quoted(s), err)
	}
	rest, err := expandRanges(s[i+n+1:])
	if err != nil {
		return nil, err
	}
	if len(items)*len(rest) > maxRange {
		return nil, fmt.Errorf("%s stands for more than %d names", quoted(s), maxRange)
	}
	out := make([]string, 0, len(items)*len(rest))
	for _, item := range items {
		for _, tail := range rest {
			out = append(out, s[:i]+item+tail)
		}
	}
	return out, nil
}

// rangeItems gives what FIRST:LAST:STEP counts: numbers, as wide as FIRST where that has leading zeros, or letters.
func rangeItems(s string) ([]string, error) {
	parts := strings.Split(s, ":")
	if len(parts) > 3 {
		return nil, fmt.Errorf("[%s] has too many colons", s)
	}
	step := 1
	if len(parts) == 3 {
		var err error
		if step, err = strconv.Atoi(parts[2]); err != nil || step < 1 {
			return nil, fmt.Errorf("[%s]: the step must be a number from 1", s)
		}
	}
	first, last := parts[0], parts[1]
	if first == "" {
		first = "0"
	}
	letter := func(s string) bool { return len(s) == 1 && (s[0]|0x20) >= 'a' && (s[0]|0x20) <= 'z' }
	var out []string
	if letter(first) && letter(last) && first[0]&0x20 == last[0]&0x20 {
		for c := int(first[0]); c <= int(last[0]); c += step {
			out = append(out, string(rune(c)))
		}
	} else {
		low, err1 := strconv.ParseUint(first, 10, 31)
		high, err2 := strconv.ParseUint(last, 10, 31)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("[%s] is no range of numbers or letters", s)
		}
		width := 0
		if first[0] == '0' && len(first) > 1 {
			if width = len(first); len(last) != width {
				return nil, fmt.Errorf("[%s]: with leading zeros both ends must be of one length", s)
			}
		}
		if high >= low && (high-low)/uint64(step) >= maxRange {
			return nil, fmt.Errorf("[%s] stands for more than %d names", s, maxRange)
		}
		for n := low; n <= high; n += uint64(step) {
			out = append(out, fmt.Sprintf("%0*d", width, n))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("[%s] is empty: it counts down", s)
	}
	return out, nil
}

// NoMatchError is a part of a pattern that fits no host and no group.
type NoMatchError struct {
	Part string
	why  string // empty if there is no more to say
}

func (e *NoMatchError) Error() string { return "inventory: " + e.Plain() }

// Plain is for fault.Plain.
func (e *NoMatchError) Plain() string {
	text := fmt.Sprintf("no host or group fits %s", quoted(e.Part))
	switch {
	case e.why != "":
		text += ": " + e.why
	case dashes.MatchString(e.Part):
		text += "; [N-M] is one character of a name, and a range or a part of a group is written [N:M]"
	}
	return text
}

var dashes = regexp.MustCompile(`\[[0-9]+-[0-9]+\]`)

// term is a part of a pattern, with its sign: 0, '&' or '!'.
type term struct {
	sign byte
	text string
}

// Match gives the hosts that a pattern fits, in the order of the inventory. A pattern is terms joined by colons or
// commas: the hosts of all plain terms (of all hosts if there is none), of these only those that each &TERM fits as
// well, and without those that a !TERM fits. A term is a name of a host or group, a glob (web*, [!a]x?), ~REGEXP,
// names with a range (web[01:20]) or some of a group by number (web[0], web[-1], web[0:3]). A term that fits nothing is a
// *NoMatchError, one with a sign as well, unlike with Ansible: what !TERM was meant to spare would not be spared.
func (inv *Inventory) Match(pattern string) ([]string, error) {
	terms := splitPattern(pattern)
	if len(terms) == 0 {
		return nil, errorf("the pattern is empty")
	}
	in := map[string]bool{}
	if !slices.ContainsFunc(terms, func(t term) bool { return t.sign == 0 }) {
		for _, name := range inv.order {
			in[name] = true
		}
	}
	for _, sign := range []byte{0, '&', '!'} {
		for _, t := range terms {
			if t.sign != sign {
				continue
			}
			names, err := inv.fits(t.text)
			if err != nil {
				return nil, err
			}
			switch sign {
			case '&':
				both := make(map[string]bool, len(names))
				for _, name := range names {
					if in[name] {
						both[name] = true
					}
				}
				in = both
			case '!':
				for _, name := range names {
					delete(in, name)
				}
			default:
				for _, name := range names {
					in[name] = true
				}
			}
		}
	}
	return inv.inOrder(in), nil
}

// OnlySigned tells whether a name is no target of its own: all its terms have a sign.
func OnlySigned(name string) bool {
	if WrittenOut(name) || !strings.ContainsAny(name, "&!") {
		return false
	}
	pattern, _ := SplitName(name)
	terms := splitPattern(pattern)
	return len(terms) > 0 && !slices.ContainsFunc(terms, func(t term) bool { return t.sign == 0 })
}

// Excluded gives the hosts that the !TERMs of a name fit. A nil Inventory has none.
func (inv *Inventory) Excluded(name string) ([]string, error) {
	if inv == nil {
		return nil, nil
	}
	var out []string
	pattern, _ := SplitName(name)
	for _, t := range splitPattern(pattern) {
		if t.sign != '!' {
			continue
		}
		names, err := inv.fits(t.text)
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	return out, nil
}

// splitPattern splits at commas, and at colons that are in no brackets. In an IPv6 address (2001:db8::7) colons part
// nothing.
func splitPattern(s string) []term {
	var out []term
	add := func(text string) {
		text = strings.TrimSpace(text)
		if text == "" {
			return
		}
		t := term{text: text}
		if text[0] == '&' || text[0] == '!' {
			t.sign, t.text = text[0], text[1:]
		}
		out = append(out, t)
	}
	for _, part := range strings.Split(s, ",") {
		if address.MatchString(part) && strings.Count(part, ":") > 1 {
			add(part)
			continue
		}
		depth, start := 0, 0
		for i := range len(part) {
			switch {
			case part[i] == '[':
				depth++
			case part[i] == ']':
				depth--
			case part[i] == ':' && depth <= 0 && !strings.HasPrefix(strings.TrimLeft(part[start:i], "&! "), "~"):
				add(part[start:i])
				start = i + 1
			}
		}
		add(part[start:])
	}
	return out
}

var address = regexp.MustCompile(`^[&!]?[0-9a-fA-F:]*[0-9a-fA-F][0-9a-fA-F:]*(%\w+)?$`)

// fits gives the hosts that a term without sign fits.
func (inv *Inventory) fits(s string) ([]string, error) {
	if g := inv.groups[s]; g != nil {
		return inv.members(g), nil
	}
	if inv.hosts[s] != nil {
		return []string{s}, nil
	}
	in := map[string]bool{}
	var test func(name string) bool
	names, isRange := inv.namedBy(s)
	switch {
	case isRange:
		if err := inv.lacks(s, names); err != nil {
			return nil, err
		}
		set := make(map[string]bool, len(names))
		for _, name := range names {
			set[name] = true
		}
		test = func(name string) bool { return set[name] }
	case strings.HasPrefix(s, "~"):
		re, err := regexp.Compile("^(?:" + s[1:] + ")")
		if err != nil {
			return nil, errorf("pattern %s: %w", quoted(s), err)
		}
		test = re.MatchString
	case strings.ContainsAny(s, "*?["):
		if names, ok := inv.some(s); ok && len(names) == 0 {
			return nil, inv.outOf(s)
		} else if ok {
			return names, nil
		}
		if _, err := path.Match(globs.Replace(s), ""); err != nil {
			return nil, errorf("pattern %s: the bracket is not closed", quoted(s))
		}
		test = func(name string) bool {
			ok, _ := path.Match(globs.Replace(s), globs.Replace(name))
			return ok
		}
	default:
		return nil, &NoMatchError{Part: s}
	}
	for _, name := range inv.order {
		if test(name) {
			in[name] = true
		}
	}
	seen := map[*group]bool{}
	for _, g := range inv.groups {
		if test(g.name) {
			inv.collect(g, in, seen)
		}
	}
	if len(in) == 0 {
		return nil, &NoMatchError{Part: s}
	}
	return inv.inOrder(in), nil
}

// namedBy gives the names that a range stands for, if a host or group has one of them.
func (inv *Inventory) namedBy(s string) ([]string, bool) {
	if !strings.Contains(s, "[") || strings.HasPrefix(s, "~") {
		return nil, false
	}
	names, err := expandRanges(s)
	return names, err == nil && slices.ContainsFunc(names, inv.Has)
}

// lacks gives an error if a range stands for a name that no host or group has.
func (inv *Inventory) lacks(s string, names []string) error {
	var missing []string
	for _, name := range names {
		if !inv.Has(name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 0:
		return nil
	case len(missing) == 1:
		return &NoMatchError{missing[0], "it is one of " + quoted(s)}
	}
	return &NoMatchError{missing[0], fmt.Sprintf("it is one of %s, as are %d others that there are not", quoted(s), len(missing)-1)}
}

// outOf is the error of some hosts of a group that has none of these numbers.
func (inv *Inventory) outOf(s string) error {
	n := len(inv.members(inv.groups[subscript.FindStringSubmatch(s)[1]]))
	return &NoMatchError{s, fmt.Sprintf("the group has %d hosts, counted from 0", n)}
}

// globs makes a shell's pattern one of package path: a slash is no separator here, and [!a] is its [^a].
var globs = strings.NewReplacer("/", "\x01", "[!", "[^")

var subscript = regexp.MustCompile(`^(.+)\[(-?[0-9]+|[0-9]*:[0-9]*)\]$`)

// some gives the hosts of a group by number: GROUP[N], counted from 0 and from the end if negative, and GROUP[A:B], B
// included.
func (inv *Inventory) some(s string) ([]string, bool) {
	m := subscript.FindStringSubmatch(s)
	if m == nil || inv.groups[m[1]] == nil {
		return nil, false
	}
	g := inv.groups[m[1]]
	list := inv.members(g)
	first, last, isRange := strings.Cut(m[2], ":")
	if !isRange {
		n, err := strconv.Atoi(first)
		if n < 0 {
			n += len(list)
		}
		if err != nil || n < 0 || n >= len(list) {
			return nil, true
		}
		return list[n : n+1], true
	}
	// Of a number that is too large, Atoi gives the largest.
	low, high := 0, len(list)-1
	if first != "" {
		low, _ = strconv.Atoi(first)
	}
	if last != "" {
		n, _ := strconv.Atoi(last)
		high = min(high, n)
	}
	low = min(low, len(list))
	return list[low:max(low, high+1)], true
}

// quoted shows a text in an error, not all of one that is long.
func quoted(s string) string { return strconv.Quote(printable.Short(s)) }
