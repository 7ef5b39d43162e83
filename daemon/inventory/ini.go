package inventory

import (
	"bytes"
	"errors"
	"strings"

	"mitogend/pyproto/printable"
)

// readINI reads Ansible's INI form: [group] with a host and its variables a line, [group:vars], [group:children].
func (inv *Inventory) readINI(path string, data []byte) error {
	g, kind := inv.group(groupUngrouped), ""
	at := position{file: path}
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) {
		at.line++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' || text[0] == ';' {
			continue
		}
		var err error
		switch {
		case text[0] == '[' && !strings.Contains(text, "="):
			if g, kind, err = inv.section(text, at); err != nil {
				return err
			}
		case kind == "vars":
			key, text, ok := strings.Cut(text, "=")
			key = strings.TrimSpace(key)
			if !ok || key == "" {
				return at.errorf("%q is not KEY=VALUE, as a section :vars wants it", printable.Short(key))
			}
			g.vars[key] = inv.value(unquote(strings.TrimSpace(text)), at)
		case kind == "children":
			name := strings.Fields(text)[0]
			if err := checkName("group", name); err != nil {
				return at.errorf("%w", err)
			}
			inv.group(name)
			g.child(name)
		default:
			if err := inv.hostLine(g, text, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (inv *Inventory) section(text string, at position) (*group, string, error) {
	end := strings.IndexByte(text, ']')
	if rest := strings.TrimSpace(text[end+1:]); end < 0 || rest != "" && rest[0] != '#' && rest[0] != ';' {
		return nil, "", at.errorf("%q is no [section]", printable.Short(text))
	}
	name, kind, _ := strings.Cut(text[1:end], ":")
	if err := checkName("group", name); err != nil {
		return nil, "", at.errorf("%w", err)
	}
	switch kind {
	case "", "hosts":
		kind = ""
	case "vars", "children":
	default:
		return nil, "", at.errorf("[%s:%s]: a section ends in :vars, :children or nothing", name, kind)
	}
	return inv.group(name), kind, nil
}

// hostLine reads "name[01:10] key=value key='value with blanks' # why".
func (inv *Inventory) hostLine(g *group, text string, at position) error {
	words, err := splitWords(text)
	if err != nil {
		return at.errorf("%w", err)
	}
	if len(words) == 0 {
		return nil
	}
	own := vars{}
	for _, word := range words[1:] {
		key, text, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return at.errorf("%q is not KEY=VALUE", printable.Short(key))
		}
		v := inv.value(text, at)
		v.raw = inline(text)
		own[key] = v
	}
	return inv.addHosts(g, words[0], own, at)
}

// addHosts adds the hosts that a name with ranges stands for. A number after the last colon is a port.
func (inv *Inventory) addHosts(g *group, pattern string, own vars, at position) error {
	name, port := splitPort(pattern)
	names, err := expandRanges(name)
	if err != nil {
		return at.errorf("%w", err)
	}
	if len(inv.hosts)+len(names) > maxHosts {
		return at.errorf("there are more than %d hosts", maxHosts)
	}
	if err := inv.spend(len(names)*(1+len(own)), at); err != nil {
		return err
	}
	for _, name := range names {
		if err := checkName("host", name); err != nil {
			return at.errorf("%w", err)
		}
		h := inv.host(g, name)
		if port != "" {
			h.vars["ansible_port"] = inv.value(port, at)
		}
		h.vars.add(own)
	}
	return nil
}

// splitPort splits HOST:PORT; colons in brackets are of ranges, and several are of an IPv6 address.
func splitPort(s string) (name, port string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.LastIndexByte(s, ']') > i || strings.Trim(s[i+1:], "0123456789") != "" || s[i+1:] == "" {
		return s, ""
	}
	name = s[:i]
	if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") && strings.Count(name, ":") > 1 {
		return name[1 : len(name)-1], s[i+1:]
	}
	depth := 0
	for _, c := range name {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == ':' && depth == 0:
			return s, ""
		}
	}
	return name, s[i+1:]
}

func checkName(kind, name string) error {
	switch {
	case name == "":
		return errors.New("the name of a " + kind + " is empty")
	case strings.ContainsAny(name, " \t\x00\r\n,!&") || name[0] == '-' || name[0] == '~':
		return errors.New("the name of a " + kind + ", " + quoted(name) + ", cannot be used in patterns")
	}
	return nil
}

// splitWords splits a line as a shell would: quotes, backslashes, and a comment at its end.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	open, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(s) && (quote == 0 || s[i+1] == '"' || s[i+1] == '\\'):
			i++
			word.WriteByte(s[i])
			open = true
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == ' ' || c == '\t':
			if open {
				words = append(words, word.String())
			}
			word.Reset()
			open = false
		case c == '#' && !open:
			return words, nil
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}

// unquote takes quotes off a value that is quoted as a whole, and then a comment after it, too.
func unquote(s string) string {
	if s == "" || s[0] != '"' && s[0] != '\'' {
		return withoutComment(s)
	}
	words, err := splitWords(s)
	if err != nil || len(words) != 1 {
		return s
	}
	return words[0]
}

// withoutComment cuts a comment after what is a value of Python's; in any other text, # is part of it, as for Ansible.
func withoutComment(s string) string {
	head, _, found := strings.Cut(s, "#")
	if head = strings.TrimSpace(head); found && (head == "None" || inline(head) != nil) {
		return head
	}
	return s
}
