package builds

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// program is an ELF file for a machine, with symbols that nobody loads behind it.
func program(machine elf.Machine, loader string) []byte {
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	p := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: 120, Filesz: uint64(len(loader) + 1)}
	_ = binary.Write(&b, binary.LittleEndian, h)
	_ = binary.Write(&b, binary.LittleEndian, p)
	b.WriteString(loader + "\x00")
	b.WriteString(strings.Repeat("symbols", 1000))
	return b.Bytes()
}

const glibc, musl = "/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"

func files(version string, machine elf.Machine, loader string) map[string]string {
	lib := "lib/python" + version + "/"
	return map[string]string{
		"bin/python" + version: string(program(machine, loader)), lib + "os.py": "# " + version, lib + "json/__init__.py": "", lib + "__pycache__/os.cpython-312.pyc": "x",
		lib + "site-packages/six.py": "x", lib + "test/test_os.py": "x", lib + "x y.py": "", lib + "odd'name.py": "x", "include/x.h": "x", "bin/pip": "x", lib + "config-3.12/libpython.a": "x",
	}
}

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func list(t *testing.T, places ...string) []*Build {
	t.Helper()
	s, err := Open(places)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A directory of builds gives the newest for each machine and loader, whatever else lies there.
func TestList(t *testing.T) {
	dir := t.TempDir()
	for name, f := range map[string]map[string]string{
		"a": files("3.9", elf.EM_X86_64, glibc), "b": files("3.12", elf.EM_X86_64, glibc), "c": files("3.12", elf.EM_X86_64, glibc),
		"d": files("3.11", elf.EM_X86_64, musl), "e": files("3.10", elf.EM_AARCH64, "/lib/ld-linux-aarch64.so.1"), "f": files("3.5", elf.EM_S390, "/lib/ld64.so.1"),
		"g": {"bin/python3.13": "#!/bin/sh\n", "lib/python3.13/os.py": ""}, "h": {"bin/python3.14": string(program(elf.EM_X86_64, glibc))},
		"i": files("2.7", elf.EM_RISCV, ""),
	} {
		write(t, filepath.Join(dir, name), f)
	}
	if err := os.Symlink("b", filepath.Join(dir, "newest")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{".lock": ""})
	var got []string
	for _, b := range list(t, dir) {
		got = append(got, filepath.Base(b.Place)+" "+b.String()+" "+b.Loader)
	}
	want := []string{"b Python 3.12 for x86_64 " + glibc, "d Python 3.11 for x86_64 " + musl, "e Python 3.10 for aarch64 /lib/ld-linux-aarch64.so.1", "i Python 2.7 for riscv64 "}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A build is the same from a directory and from any tar file, and each form unpacks to what the manifest says.
func TestPack(t *testing.T) {
	ctx := context.Background()
	f := files("3.12", elf.EM_X86_64, glibc)
	dir := write(t, t.TempDir(), f)
	b := list(t, dir)[0]
	var names []string
	for _, m := range b.members {
		names = append(names, m.name)
	}
	if want := "bin/python3.12 lib/python3.12/json/__init__.py lib/python3.12/os.py lib/python3.12/x y.py"; strings.Join(names, " ") != want {
		t.Errorf("%q", names)
	}
	if sum := sha256.Sum256(b.manifest); b.Hash != hex.EncodeToString(sum[:]) {
		t.Errorf("hash %s", b.Hash)
	}
	for _, form := range []string{"", ".gz", ".zst"} {
		path := filepath.Join(t.TempDir(), "x.tar"+form)
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		var w io.WriteCloser = out
		switch form {
		case ".gz":
			w = gzip.NewWriter(out)
		case ".zst":
			if w, err = zstd.NewWriter(out); err != nil {
				t.Fatal(err)
			}
		}
		tw := tar.NewWriter(w)
		put := func(h tar.Header, text string) {
			h.Size, h.Mode = int64(len(text)), 0o755
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(tw, text)
		}
		for _, name := range sorted(f) {
			if name == "bin/python3.12" {
				// As some builds have it: the name is a link.
				put(tar.Header{Name: "./python/lib/python3.12/real.so", Typeflag: tar.TypeReg}, f[name])
				put(tar.Header{Name: "./python/" + name, Typeflag: tar.TypeSymlink, Linkname: "../lib/python3.12/real.so"}, "")
				continue
			}
			put(tar.Header{Name: "./python/" + name, Typeflag: tar.TypeReg}, f[name])
		}
		_ = tw.Close()
		if form != "" {
			_ = w.Close()
		}
		_ = out.Close()
		found := list(t, path)
		if len(found) != 1 || found[0].Python != b.Python || !strings.Contains(string(found[0].manifest), "  bin/python3.12\n") {
			t.Fatalf("%s: %v", form, found)
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, whole[:len(whole)/2], 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err := Open([]string{path}); err == nil {
			if found, err := s.List(ctx); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
				t.Errorf("%s, cut off: %v, %v", form, found, err)
			}
		}
	}
	for form, unpack := range map[string]string{"tar": "tar -xof -", "tar.gz": "gzip -dc|tar -xof -", "sh": "sh", "sh.gz": "gzip -dc|sh"} {
		data, err := b.Pack(ctx, form)
		if err != nil {
			t.Fatal(err)
		}
		into := t.TempDir()
		cmd := exec.Command("sh", "-c", unpack+"&&cd python&&sha256sum --quiet -c ../manifest&&test -x bin/python3.12&&find . -type f|wc -l")
		cmd.Dir, cmd.Stdin = into, bytes.NewReader(data)
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(len(b.members)) {
			t.Errorf("%s: %v\n%s", form, err, out)
		}
	}
	if _, err := b.Pack(ctx, "cpio"); err == nil {
		t.Error("an unknown form")
	}
	// One that changes is another one, and is not sent as what it was.
	write(t, dir, map[string]string{"lib/python3.12/os.py": "# changed"})
	if _, err := b.Pack(ctx, "tar"); err == nil || !strings.Contains(err.Error(), "it has changed") {
		t.Errorf("changed: %v", err)
	}
	if again := list(t, dir)[0]; again.Hash == b.Hash {
		t.Error("the hash is that of before")
	}
}

// A set reads what has changed, and keeps what has not.
func TestSetAgain(t *testing.T) {
	dir := write(t, t.TempDir(), files("3.12", elf.EM_X86_64, glibc))
	s, err := Open([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	list := func() *Build {
		t.Helper()
		out, err := s.List(ctx)
		if err != nil || len(out) != 1 {
			t.Fatal(out, err)
		}
		return out[0]
	}
	first := list()
	if list() != first {
		t.Error("it was read again")
	}
	one, err := s.Pack(ctx, first, "tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	if two, _ := s.Pack(ctx, first, "tar.gz"); &one[0] != &two[0] {
		t.Error("it was packed again")
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Pack(gone, first, "tar"); err != nil {
		t.Errorf("who has gone fails those who wait for the same: %v", err)
	}
	write(t, dir, map[string]string{"lib/python3.12/new.py": ""})
	if list() != first {
		t.Error("the places were looked at again at once")
	}
	s.listed = time.Time{}
	if list().Hash == first.Hash {
		t.Error("a new file was not noticed")
	}
	if err := os.RemoveAll(filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	s.listed = time.Time{}
	if _, err := s.List(ctx); err == nil || !strings.Contains(err.Error(), "there is no Python in it") {
		t.Errorf("gone: %v", err)
	}
	// Who has gone does not wait for who reads.
	s.reading <- struct{}{}
	if _, err := s.List(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("while somebody reads: %v", err)
	}
}

func TestStripped(t *testing.T) {
	whole := program(elf.EM_X86_64, glibc)
	got := stripped(whole)
	if len(got) != 120+len(glibc)+1 || bytes.Contains(got, []byte("symbols")) {
		t.Errorf("%d bytes", len(got))
	}
	if f, err := elf.NewFile(bytes.NewReader(got)); err != nil || len(f.Progs) != 1 {
		t.Error(err)
	}
	for _, data := range [][]byte{nil, []byte("text"), whole[:130], whole[:20]} {
		if !bytes.Equal(stripped(data), data) {
			t.Errorf("%d bytes were changed", len(data))
		}
	}
}
