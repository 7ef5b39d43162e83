package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestTables: each package's documentation, or a comment like it in internals.go, names every function that starts
// goroutines, in the column "started in" of its table, and every lock in its section Locks; and nothing that is not
// there.
func TestTables(t *testing.T) {
	t.Parallel()
	eachPackage(t, func(dir string, p *sources) {
		if slices.Contains(public, dir) && (strings.Contains(p.public, "# Goroutines") || strings.Contains(p.public, "# Locks")) {
			t.Errorf("%s: the tables are for who changes the package, and a part of its public documentation", dir)
		}
		compare(t, dir+": a function that starts goroutines", p.starts, startedIn(sectionOf(p.doc, "Goroutines")))
		compare(t, dir+": a lock", p.locks, locksIn(sectionOf(p.doc, "Locks")))
	})
}

// public are packages whose tables stand in a comment of internals.go that is no package documentation.
var public = []string{"../daemon", "../daemon/client"}

func eachPackage(t *testing.T, fn func(dir string, p *sources)) {
	t.Helper()
	packages := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return err
		case path != ".." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"integration", "examples", "testdata"}, d.Name())):
			return filepath.SkipDir
		}
		if p := readPackage(t, path); p.files > 0 {
			packages++
			fn(path, p)
		}
		return nil
	})
	if err != nil || packages < 15 {
		t.Fatalf("%d packages, %v", packages, err)
	}
}

// TestWays: the functions that ARCHITECTURE.md names are in the files that it names.
func TestWays(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, ways, _ := strings.Cut(string(page), "## Five ways through the sources\n")
	ways, _, _ = strings.Cut(ways, "\n## ")
	functions := 0
	for _, step := range regexp.MustCompile("`([\\w/]+\\.(?:go|py))` ([\\w, ]+)").FindAllStringSubmatch(ways, -1) {
		text, err := os.ReadFile("../" + step[1])
		if err != nil {
			t.Error(err)
			continue
		}
		for _, name := range regexp.MustCompile(`\w+`).FindAllString(step[2], -1) {
			functions++
			if !regexp.MustCompile(`(?m)^(?:func (?:\([^)]*\) )?|\s*def )` + name + `\(`).Match(text) {
				t.Errorf("%s has no function %s", step[1], name)
			}
		}
	}
	if functions < 80 {
		t.Errorf("%d functions", functions)
	}
}

// TestTimes: ARCHITECTURE.md has every time that a package waits, with its value.
func TestTimes(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([\\w/]+)` \\| `(\\w+)` \\| ([\\d.]+ \\w+) \\| ").FindAllStringSubmatch(string(page), -1) {
		told[m[1]+"."+m[2]] = m[3]
	}
	found := map[string]string{}
	eachPackage(t, func(dir string, p *sources) {
		for name, d := range p.times {
			found[strings.TrimPrefix(dir, "../")+"."+name] = inWords(d)
		}
	})
	for name, value := range found {
		if told[name] != value {
			t.Errorf("ARCHITECTURE.md says %q of %s, which is %s", told[name], name, value)
		}
	}
	for name := range told {
		if found[name] == "" {
			t.Errorf("ARCHITECTURE.md has %s, which is nowhere else", name)
		}
	}
}

// TestStopTime: the unit of systemd gives the daemon the time that stopping may take.
func TestStopTime(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../contrib/systemd/mitogend.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindStringSubmatch(string(unit))
	if m == nil {
		t.Fatal("the unit has no TimeoutStopSec")
	}
	seconds, _ := strconv.Atoi(m[1])
	var most time.Duration
	for dir, names := range map[string][]string{"../daemon/control": {"DefaultGrace", "closeTime", "hangTime", "lastSpans"}, "../daemon/pool": {"closeTime"}} {
		p := readPackage(t, dir)
		for _, name := range names {
			if p.times[name] == 0 {
				t.Errorf("%s has no %s", dir, name)
			}
			most += p.times[name]
		}
	}
	if given := time.Duration(seconds) * time.Second; given < most {
		t.Errorf("the unit gives %v, and stopping may take %v", given, most)
	}
}

func inWords(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= unit.of && d%unit.of == 0 {
			return fmt.Sprintf("%d %s", d/unit.of, unit.name)
		}
	}
	if d >= time.Second {
		return fmt.Sprintf("%g s", d.Seconds())
	}
	return fmt.Sprintf("%g ms", d.Seconds()*1000)
}

func compare(t *testing.T, what string, found map[string]bool, told []string) {
	t.Helper()
	for name := range found {
		if !slices.Contains(told, name) {
			t.Errorf("%s is in no table of the package's documentation: %s", what, name)
		}
	}
	for _, name := range told {
		if !found[name] {
			t.Errorf("%s is in the package's documentation, and nowhere else: %s", what, name)
		}
	}
}

// lockNames matches Type.field, where the field has a lock's name, and package.Type.field, which belongs to another package.
var lockNames = regexp.MustCompile(`\b(\w+\.)?\w+\.(\w+Mu|w?mu|making|decoding)\b`)

func locksIn(text string) (names []string) {
	for _, name := range lockNames.FindAllString(text, -1) {
		if strings.Count(name, ".") == 1 {
			names = append(names, name)
		}
	}
	return names
}

func sectionOf(doc, title string) string {
	_, text, _ := strings.Cut(doc, "// # "+title+"\n")
	text, _, _ = strings.Cut(text, "\n// # ")
	return text
}

// startedIn reads the table's column.
func startedIn(table string) (names []string) {
	from, to := -1, -1
	for line := range strings.Lines(table) {
		row, ok := strings.CutPrefix(line, "//\t")
		if !ok {
			from = -1
			continue
		}
		if at := strings.Index(row, "started in"); at >= 0 {
			from, to = at, strings.Index(row, "ends when")
			continue
		}
		if from >= 0 && len(row) > from {
			names = append(names, functionNames.FindAllString(row[from:min(to, len(row))], -1)...)
		}
	}
	return names
}

var functionNames = regexp.MustCompile(`[A-Za-z][\w.]*`)

type sources struct {
	files         int
	doc           string // the comments ahead of the package clauses, as they stand
	public        string // those of them that are the package's documentation
	starts, locks map[string]bool
	times         map[string]time.Duration
}

func readPackage(t *testing.T, dir string) *sources {
	t.Helper()
	f := &sources{starts: map[string]bool{}, locks: map[string]bool{}, times: map[string]time.Duration{}}
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		f.public += file.Doc.Text()
		f.doc += string(text[:file.Package-1]) + "\n"
		f.files++
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				f.function(functionName(d), d)
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						f.fields(s.Name.Name, s.Type)
					case *ast.ValueSpec:
						f.fields(s.Names[0].Name, s.Type)
						for i, v := range s.Values {
							if d, ok := duration(v); ok {
								f.times[s.Names[i].Name] = d
							}
							f.function(s.Names[0].Name, v)
						}
					}
				}
			}
		}
	}
	return f
}

func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	switch generic := typ.(type) {
	case *ast.IndexExpr:
		typ = generic.X
	case *ast.IndexListExpr:
		typ = generic.X
	}
	return typ.(*ast.Ident).Name + "." + d.Name.Name
}

// function finds go statements, WaitGroup.Go and the like, and locks among the variables.
func (f *sources) function(name string, n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			f.starts[name] = true
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Go" && len(n.Args) == 1 {
				f.starts[name] = true
			}
		case *ast.ValueSpec:
			if isLock(n.Type) {
				for _, id := range n.Names {
					f.locks[name[strings.LastIndexByte(name, '.')+1:]+"."+id.Name] = true
				}
			}
		}
		return true
	})
}

// duration gives the value of a constant such as 3 * time.Second.
func duration(v ast.Expr) (time.Duration, bool) {
	switch v := v.(type) {
	case *ast.SelectorExpr:
		if x, ok := v.X.(*ast.Ident); ok && x.Name == "time" {
			d, ok := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}[v.Sel.Name]
			return d, ok
		}
	case *ast.BinaryExpr:
		if d, ok := duration(v.Y); ok && v.Op == token.MUL {
			n, ok := number(v.X)
			return time.Duration(n) * d, ok
		}
	}
	return 0, false
}

func number(v ast.Expr) (int, bool) {
	switch v := v.(type) {
	case *ast.BasicLit:
		n, err := strconv.Atoi(v.Value)
		return n, err == nil
	case *ast.BinaryExpr:
		x, xok := number(v.X)
		y, yok := number(v.Y)
		return x * y, xok && yok && v.Op == token.MUL
	}
	return 0, false
}

// fields finds locks in a type, and in structs within it by the field's name.
func (f *sources) fields(owner string, typ ast.Expr) {
	switch typ := typ.(type) {
	case *ast.StructType:
		for _, field := range typ.Fields.List {
			for _, id := range field.Names {
				if isLock(field.Type) {
					f.locks[owner+"."+id.Name] = true
				} else {
					f.fields(id.Name, field.Type)
				}
			}
		}
	case *ast.ArrayType:
		f.fields(owner, typ.Elt)
	case *ast.MapType:
		f.fields(owner, typ.Value)
	}
}

func isLock(typ ast.Expr) bool {
	s, ok := typ.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == "sync" && (s.Sel.Name == "Mutex" || s.Sel.Name == "RWMutex")
}
