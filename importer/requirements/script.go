package requirements

import (
	"errors"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

// Script reads what a script needs by its own word, in a block of comments as PEP 723 has it; lines and python (as >=3.11) are empty where it
// has none. What is no such block is Python's business.
func Script(source []byte) (lines []string, python string, err error) {
	var block []string
	found, at := false, -1 // at: where the block's last end was seen
	var text []string
	for line := range strings.Lines(string(source)) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case text == nil && line == "# /// script":
			if found {
				return nil, "", errors.New("it has two blocks of the type script (PEP 723)")
			}
			text, at = []string{}, -1
			continue
		case text == nil:
			continue
		case line == "# ///":
			at = len(text)
		}
		if line == "#" || strings.HasPrefix(line, "# ") {
			text = append(text, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
			continue
		}
		if at >= 0 {
			found, block = true, text[:at]
		}
		text = nil
	}
	if text != nil && at >= 0 {
		found, block = true, text[:at]
	}
	if !found {
		return nil, "", nil
	}
	var said struct {
		Dependencies []string `toml:"dependencies"`
		Python       string   `toml:"requires-python"`
	}
	if err := toml.Unmarshal([]byte(strings.Join(block, "\n")), &said); err != nil {
		return nil, "", fmt.Errorf("its block of requirements (PEP 723) is no TOML: %w", err)
	}
	for _, line := range said.Dependencies {
		if err := Check(line); err != nil {
			return nil, "", fmt.Errorf("its block of requirements (PEP 723): %w", err)
		}
	}
	return said.Dependencies, said.Python, nil
}
