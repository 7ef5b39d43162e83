package main

import (
	"strings"
	"testing"
)

func TestFold(t *testing.T) {
	for in, want := range map[string]string{
		"web1":                                           "web1",
		"web1 web1":                                      "web1",
		"web01 web02 web03 web20":                        "web[01-03,20]",
		"web08 web09 web10 web11":                        "web[08-11]",
		"web8 web9 web10 web11":                          "web[8-11]",
		"web1 web01 web2 web02":                          "web[1-2,01-02]",
		"web99 web100 web101":                            "web[99-101]",
		"db web1 web2":                                   "db,web[1-2]",
		"10.0.0.1 10.0.0.2 10.0.1.1":                     "10.0.0.[1-2],10.0.1.1",
		"ssh:web1?port=22 ssh:web2?port=22":              "ssh:web[1-2]?port=22",
		"web1.eu web2.eu web1.us":                        "web[1-2].eu,web1.us",
		"r1n1 r1n2 r2n1 r2n2":                            "r1n[1-2],r2n[1-2]",
		"w18446744073709551616 w99999999999999999999999": "w[18446744073709551616,99999999999999999999999]",
	} {
		if got := fold(strings.Fields(in)); got != want {
			t.Errorf("%s: %s, not %s", in, got, want)
		}
	}
	if got := counted([]string{"local:", "local:"}); got != "local (2)" {
		t.Error(got)
	}
}
