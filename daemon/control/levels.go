package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Components are the parts of the daemon whose log levels can be set.
var Components = []string{"daemon", "pool", "control", "children", "clients", "http"}

// Levels are the log levels of the components. They can be changed while the daemon runs.
type Levels struct {
	levels map[string]zap.AtomicLevel // constant
}

// NewLevels makes levels that begin at one level.
func NewLevels(level zapcore.Level) *Levels {
	l := &Levels{levels: map[string]zap.AtomicLevel{}}
	for _, c := range Components {
		l.levels[c] = zap.NewAtomicLevelAt(level)
	}
	return l
}

// Set sets the level of a component, or of all when it is empty. Levels are debug, info, warn and error.
func (l *Levels) Set(component, level string) error {
	lv, err := ParseLevel(level)
	if err != nil {
		return err
	}
	if component == "" {
		for _, a := range l.levels {
			a.SetLevel(lv)
		}
		return nil
	}
	a, ok := l.levels[component]
	if !ok {
		return fmt.Errorf("there is no component %q; they are %s", component, strings.Join(Components, ", "))
	}
	a.SetLevel(lv)
	return nil
}

// ParseLevel reads a level's name.
func ParseLevel(name string) (zapcore.Level, error) {
	var lv zapcore.Level
	if name == "warning" {
		name = "warn"
	}
	if err := lv.UnmarshalText([]byte(name)); err != nil || lv > zap.ErrorLevel {
		return 0, fmt.Errorf("%q is no level; they are debug, info, warn and error", name)
	}
	return lv, nil
}

// Map gives the level of each component.
func (l *Levels) Map() map[string]string {
	out := map[string]string{}
	for _, c := range slices.Sorted(maps.Keys(l.levels)) {
		out[c] = l.levels[c].Level().String()
	}
	return out
}

// Logger gives the logger of one of Components, on a core that takes every level.
func (l *Levels) Logger(core zapcore.Core, component string) *zap.Logger {
	level, ok := l.levels[component]
	if !ok { // its first record would crash the daemon, much later
		panic("control: there is no component " + component)
	}
	return zap.New(core, zap.IncreaseLevel(level)).Named(component)
}
