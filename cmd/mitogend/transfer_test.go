package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// The lists of names have a bound, and say what is not in them.
func TestTransferNames(t *testing.T) {
	var row transferRow
	for range maxListed + 2 {
		row.add("send", "caf\xe9")
	}
	row.add("delete", "old")
	var got struct {
		Send, Delete []string
		LeftOut      int `json:"left_out"`
	}
	text, err := json.Marshal(&row)
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil || len(got.Send) != maxListed || len(got.Delete) != 1 || got.LeftOut != 2 {
		t.Error(len(got.Send), got.Delete, got.LeftOut, err)
	}
	var long transferNames
	for range 3 {
		long.add("delete", strings.Repeat("x", maxListedBytes/2))
	}
	if len(long.Delete) != 2 || long.LeftOut != 1 {
		t.Error(len(long.Delete), long.LeftOut)
	}
	if text, err := json.Marshal(fileText("caf\xe9 é")); string(text) != `"caf\udce9 é"` {
		t.Errorf("%s %v", text, err)
	}
}
