package python

import (
	_ "embed"
	"strconv"
	"sync"
)

//go:embed stock_stage.py
var stockStage string

var stockProgram = sync.OnceValue(func() string { return Shrink(stockStage) })

// StockPreamble is what the stub reads to become a child of the user's own Mitogen: core is the source of that Mitogen's core.py,
// config what its ExternalContext takes. The interpreter is not started again.
func StockPreamble(core string, config map[string]any) ([]byte, error) {
	literal, err := Literal(map[string]any{
		"source": core, "config": config,
		// The name under which Mitogen's own first stage runs the core, as tracebacks show it.
		"filename": "<stdin>",
	})
	if err != nil {
		return nil, err
	}
	packed := deflate([]byte(stockProgram() + "\x00" + literal))
	return append([]byte(strconv.Itoa(len(packed))+"\n"), packed...), nil
}
