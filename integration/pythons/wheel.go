package pythons

import (
	"archive/zip"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// WriteWheel makes a wheel of these files, according to its name, and gives its path. They replace those that it would
// generate; text "" leaves such a one out.
func WriteWheel(t testing.TB, dir, name string, files map[string]string) string {
	t.Helper()
	parts := strings.Split(strings.TrimSuffix(name, ".whl"), "-")
	info := parts[0] + "-" + parts[1] + ".dist-info/"
	all := map[string]string{
		info + "METADATA": "Metadata-Version: 2.1\nName: " + parts[0] + "\nVersion: " + parts[1] + "\n",
		info + "WHEEL":    "Wheel-Version: 1.0\nTag: " + strings.Join(parts[len(parts)-3:], "-") + "\n",
		info + "RECORD":   "\n",
	}
	for file, text := range files {
		if _, generated := all[file]; generated && text == "" {
			delete(all, file)
		} else {
			all[file] = text
		}
	}
	path := filepath.Join(dir, name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	for _, file := range slices.Sorted(maps.Keys(all)) {
		member, err := w.Create(file)
		if err == nil {
			_, err = member.Write([]byte(all[file]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
