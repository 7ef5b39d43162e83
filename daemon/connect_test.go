package daemon

import (
	"reflect"
	"testing"

	"mitogend/bootstrap"
)

// ofTheLast are the options that a hop on the way does not have, and why. Python, PythonFrom and Secrets are among
// the arguments of its step.
var ofTheLast = map[string]bool{
	"Python": true, "PythonFrom": true, "Secrets": true, // in the steps
	"AsMitogen": true, "LogTo": true, // of clients of mitogen.sock, which connect one hop at a time
	"OnOutput": true, "LogLevel": true, "OnLog": true, "OnImport": true, "chain": true, // of who connects
}

// TestOptionsOfHops: connects that share a hop have the same of each option that the hop gets. A new field of
// ConnectOptions has to be in either list.
func TestOptionsOfHops(t *testing.T) {
	t.Parallel()
	steps := []step{{hop: bootstrap.Hop{Method: "local"}}}
	typ := reflect.TypeFor[ConnectOptions]()
	for i := range typ.NumField() {
		field := typ.Field(i)
		var opt ConnectOptions
		if field.IsExported() {
			fill(t, reflect.ValueOf(&opt).Elem().Field(i))
		} else {
			opt.chain = "x"
		}
		got := reflect.ValueOf(hopOptions(steps, opt)).Field(i)
		shared := keyOf(steps, &opt) == keyOf(steps, &ConnectOptions{})
		switch {
		case field.Name == "Name", field.Name == "Timeout": // of the hop itself, and of who connects it first
			if got.IsZero() || !shared {
				t.Errorf("%s: %v, shared: %t", field.Name, got, shared)
			}
		case ofTheLast[field.Name] != got.IsZero() || ofTheLast[field.Name] != shared:
			t.Errorf("%s: a hop gets %v, and is shared by those who differ in it: %t", field.Name, got, shared)
		}
	}
}

// fill gives a value that is not zero.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint32:
		v.SetUint(7)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Func:
		v.Set(reflect.MakeFunc(v.Type(), func([]reflect.Value) []reflect.Value { return nil }))
	case reflect.Struct:
		fill(t, v.Field(0))
	default:
		t.Fatalf("no value for a %s", v.Type())
	}
}
