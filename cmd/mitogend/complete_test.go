package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// There is a script for each shell that is named, and an error for any other.
func TestCompletionScripts(t *testing.T) {
	for shell, want := range map[string]string{"bash": "# bash completion", "fish": "# fish completion", "tcsh": "for tcsh: bash, zsh, fish or powershell", "": "Usage:"} {
		file := filepath.Join(t.TempDir(), "out")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		root := newRoot(&app{console: newConsole(f, f, nil)})
		root.SetArgs(strings.Fields("completion " + shell))
		err = root.Execute()
		data, _ := os.ReadFile(file)
		text := string(data)
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, want) || errors.As(err, new(usageError)) != (shell == "tcsh") {
			t.Errorf("%s: %.200s %v", shell, text, err)
		}
	}
}
