package bootstrap

import (
	"slices"
	"testing"
)

func TestWithoutSecrets(t *testing.T) {
	t.Setenv("SECRET_OF_TEST", "s3cret")
	hop := Hop{Method: "sudo", Args: map[string]string{"password_env": "SECRET_OF_TEST"}}
	env := []string{"A=1", "SECRET_OF_TEST=s3cret", "SECRET_OF_TEST2=2", "MITOGEND_SUDO_PASSWORD=x", "MITOGEND_PATH=/lib", "PASSWORD=y", "odd"}
	want := slices.Concat(env[:3], env[4:])
	if got := WithoutSecrets(env); !slices.Equal(got, want) {
		t.Errorf("before a hop names it: %q", got)
	}
	if _, err := hop.Options(); err != nil {
		t.Fatal(err)
	}
	want = slices.Concat(env[:1], env[2:3], env[4:])
	if got := WithoutSecrets(env); !slices.Equal(got, want) || len(env) != 7 {
		t.Errorf("got %q of %q", got, env)
	}
}
