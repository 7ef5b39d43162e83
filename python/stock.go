package python

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

//go:embed stock_stage.py
var stockStage string

//go:embed stock_tail.py
var stockTail string

//go:embed either_stage.py
var eitherStage string

//go:embed stock_hop.py
var stockHop string

var (
	stockProgram  = sync.OnceValue(func() string { return Shrink(stockStage) })
	eitherProgram = sync.OnceValue(func() string { return Shrink(eitherStage) })
)

// HopModule is what a stock child imports, under the name of HopName, to start a child of another runtime behind
// itself.
func HopModule() Module {
	return Module{Path: "mitogend/stock_hop.py", Text: func() string { return stockHop }}
}

// HopName is the name of HopModule: none of Mitogen's own.
const HopName = "mitogend_hop"

// StockTail follows the source of a stock core whose children have descriptors 1 and 2 that do not block. It is part
// of the core's source, so that children that a child starts by itself have it, too.
func StockTail() string { return stockTail }

// StockPreamble is what the stub reads to become a child of the user's own Mitogen: core is the source of that
// Mitogen's core.py, config what its ExternalContext takes. The interpreter is not started again.
func StockPreamble(core string, config map[string]any) ([]byte, error) {
	text, err := stockText(core, config, false)
	if err != nil {
		return nil, err
	}
	packed := deflate([]byte(text))
	return append([]byte(strconv.Itoa(len(packed))+"\n"), packed...), nil
}

// past says that the child gets nothing from its parent, which has another runtime that does not know it.
func stockText(core string, config map[string]any, past bool) (string, error) {
	literal, err := Literal(map[string]any{
		"source": core, "config": config, "past": past,
		// The name under which Mitogen's own first stage runs the core, as tracebacks show it.
		"filename": "<stdin>",
	})
	return stockProgram() + "\x00" + literal, err
}

// unknownID stands in a configuration for a context id that is not known yet.
const unknownID = uint32(1<<32 - 1)

// Behind gives what comes before and after the context id in the text that [HopModule] compresses and sends to a
// first stage, whose generation is not known. core is a stock core's source or, for the embedded runtime, empty. The
// context_id in config is not looked at.
func Behind(core string, config map[string]any) (head, tail string, err error) {
	config["context_id"] = unknownID
	var text string
	if core != "" {
		text, err = stockText(core, config, true)
	} else {
		var literal string
		literal, err = Literal(map[string]any{"core2": Core(2), "core3": Core(3), "config": config})
		text = eitherProgram() + "\x00" + literal
	}
	if err != nil {
		return "", "", err
	}
	mark := `"context_id":`
	head, tail, _ = strings.Cut(text, mark+strconv.FormatUint(uint64(unknownID), 10))
	if tail == "" {
		return "", "", fmt.Errorf("python: the configuration has no place for a context id")
	}
	return head + mark, tail, nil
}
