package pool

import (
	"testing"

	"mitogend/bootstrap"
	"mitogend/importer"
)

// What many requests have in common makes the same key as each of them by itself: they share connections.
func TestCommon(t *testing.T) {
	base := Request{Python: []string{"python3"}, Source: &importer.Options{Path: []string{"/lib"}}, Dir: "/dir", Env: []string{"HOME=/h", "X=1", "PWD=/no"}}
	other := base
	other.Env = []string{"HOME=/h", "X=2"}
	common, another := NewCommon(base), NewCommon(other)
	for _, target := range []string{"local:", "ssh:web1", "ssh:web1+sudo:root", "exec:env"} {
		hops, err := bootstrap.ParseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		for _, passwords := range []map[int]string{nil, {0: "a"}, {0: "b"}} {
			alone := base
			alone.Target, alone.Hops, alone.Passwords = target, hops, passwords
			shared, apart := alone, alone
			shared.Common, apart.Common = common, another
			want := alone.key(alone.sourceKey())
			if got := shared.key(shared.sourceKey()); got != want {
				t.Errorf("%s %v: %s, want %s", target, passwords, got, want)
			}
			// X matters to what is started here only.
			if got := apart.key(apart.sourceKey()); (got == want) == alone.local() {
				t.Errorf("%s %v: another environment: %s, and %s", target, passwords, got, want)
			}
		}
	}
}
