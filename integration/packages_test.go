package integration

import (
	"encoding/json"
	"fmt"
	"mitogend/integration/pythons"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// distPackages is where Debian installs packages for its own interpreter.
const distPackages = "/usr/lib/python3/dist-packages"

// debian gives a directory with only these packages of Debian's.
func debian(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		from := filepath.Join(distPackages, name)
		if _, err := os.Stat(from); err != nil {
			pythons.Missing(t, err)
		}
		if err := os.Symlink(from, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// onEvery runs a program with packages that the children lack, on every interpreter that can run it from the disk, and expects the
// same bytes. must lists versions that have to be able to.
func onEvery(t *testing.T, path, program string, must ...string) {
	dir := t.TempDir()
	script := Write(t, dir, "program.py", program)
	EachPython(t, func(t *testing.T, p Python) {
		lacks := p.Local(t, dir, "", script)
		if lacks.Status == 0 || !strings.Contains(lacks.Stderr, "No module named") {
			t.Fatalf("this interpreter has the package itself: %v", lacks)
		}
		here := p.Local(t, dir, path, script)
		if here.Status != 0 {
			last := here.Stderr[strings.LastIndexByte(strings.TrimSpace(here.Stderr), '\n')+1:]
			if slices.Contains(must, p.Version) {
				t.Fatalf("it does not even run from local disk: %s", last)
			}
			t.Skipf("does not run from local disk: %s", last)
		}
		there := Mitogend(t, dir, "run", "-I", path, "-H", p.Target(), script)
		if here != there {
			t.Fatalf("here %v\nthere %v", here, there)
		}
	})
}

func TestJinja2(t *testing.T) {
	onEvery(t, debian(t, "jinja2", "markupsafe"), `
import jinja2
env = jinja2.Environment(loader=jinja2.DictLoader({
    'base': '<ul>{% block items %}{% endblock %}</ul>',
    'page': '{% extends "base" %}{% block items %}{% for n in names|sort %}<li>{{ loop.index }} {{ n|e }}</li>{% endfor %}{% endblock %}',
}), autoescape=True)
print(env.get_template('page').render(names=['b & c', 'a']))
try:
    env.from_string('{% if %}').render()
except jinja2.TemplateSyntaxError as e:
    print(e)
`, "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
}

func TestSQLAlchemy(t *testing.T) {
	onEvery(t, debian(t, "sqlalchemy"), `
from sqlalchemy import create_engine, Column, ForeignKey, Integer, String, func
from sqlalchemy.orm import declarative_base, relationship, sessionmaker
Base = declarative_base()
class User(Base):
    __tablename__ = 'users'
    id = Column(Integer, primary_key=True)
    name = Column(String(50))
    posts = relationship('Post', back_populates='user')
class Post(Base):
    __tablename__ = 'posts'
    id = Column(Integer, primary_key=True)
    title = Column(String(50))
    user_id = Column(ForeignKey('users.id'))
    user = relationship(User, back_populates='posts')
engine = create_engine('sqlite://')
Base.metadata.create_all(engine)
session = sessionmaker(engine)()
session.add(User(name='ada', posts=[Post(title='one'), Post(title='two')]))
session.add(User(name='grace'))
session.commit()
for user, n in session.query(User, func.count(Post.id)).outerjoin(Post).group_by(User.id).order_by(User.name):
    print('%s %d %s' % (user.name, n, sorted(str(p.title) for p in user.posts)))
`, "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
}

func TestDjango(t *testing.T) {
	onEvery(t, debian(t, "django", "asgiref", "sqlparse", "pytz"), `
import warnings
warnings.simplefilter('ignore') # of a newer compiler, about an older package
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=[], DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}},
                   DEFAULT_AUTO_FIELD='django.db.models.AutoField', USE_TZ=True)
django.setup()
from django.db import connection, models
class City(models.Model):
    name = models.CharField(max_length=50)
    size = models.IntegerField(default=0)
    class Meta:
        app_label = 'demo'
with connection.schema_editor() as editor:
    editor.create_model(City)
for i, name in enumerate(['Rome', 'Oslo', 'Lima']):
    City.objects.create(name=name, size=i)
print(list(City.objects.filter(size__gte=1).order_by('name').values_list('name', 'size')))
print(City.objects.aggregate(models.Sum('size')))
print(City.objects.filter(name__icontains='o').query)
`, "3.9", "3.10", "3.11", "3.12")
}

func TestSix(t *testing.T) {
	onEvery(t, debian(t, "six.py"), `
from __future__ import print_function
import six
from six.moves import range, urllib, queue
print(six.text_type.__name__, list(range(2)), urllib.parse.quote('a b'), queue.Queue.__name__)
@six.python_2_unicode_compatible
class A(object):
    def __str__(self):
        return u'\xe9'
print(repr(six.text_type(A())))
`, "2.7", "3.6", "3.11", "3.13")
}

// Python 2 only: implicit relative imports, its statements, a module that shadows one of the standard library.
func TestPython2Package(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "old/__init__.py", "import text\nfrom tools import *\n")
	Write(t, dir, "old/text.py", "# -*- coding: latin-1 -*-\nimport string\nimport deep.inner\nname = u'\xe4'\n")
	Write(t, dir, "old/tools.py", "import os, text\nfrom deep import inner\ndef show(x):\n    print >>__import__('sys').stdout, `x`, 0777 <> 1, os.sep\n")
	Write(t, dir, "old/string.py", "mine = True\n")
	Write(t, dir, "old/deep/__init__.py", "")
	Write(t, dir, "old/deep/inner.py", "import sys\nfrom .. import string\nimport old.text\nexec 'value = 1'\n")
	script := Write(t, t.TempDir(), "main.py", "import old, sys\nold.show(old.text.name)\nprint old.text.string.mine, old.deep.inner.value, sorted(m for m in sys.modules if m.startswith('old'))\nimport string\nprint string.uppercase\n")
	EachPython(t, func(t *testing.T, p Python) {
		if here := p.Local(t, dir, dir, script); p.Version == "2.7" && here.Status != 0 {
			t.Error(here)
		} else if there := Mitogend(t, dir, "run", "-I", dir, "-H", p.Target(), script); here.Status == 0 && here != there {
			t.Errorf("here %v\nthere %v", here, there)
		} else if here.Status != there.Status || strings.Contains(here.Stderr, "SyntaxError") != strings.Contains(there.Stderr, "SyntaxError") {
			t.Errorf("here %v\nthere %v", here, there)
		}
	})
}

func TestModules(t *testing.T) {
	path := debian(t, "django", "asgiref", "sqlparse", "pytz", "markupsafe")
	r := Mitogend(t, path, "modules", "-I", path, "django.db.models")
	r.Want(t, 0, r.Stdout, "")
	for _, want := range []string{"/django/db/models/__init__.py\n", "kind      package\n", "bytes", " compressed\n", "related", "django.db.models.query", "modules", " aggregates "} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("want %q in %v", want, r)
		}
	}
	r = Mitogend(t, path, "modules", "-I", path, "--python-version", "3.10", "--json", "django.db.models", "markupsafe._speedups", "os", "no.where", "../etc/passwd")
	if r.Status != 1 || r.Stderr != "" {
		t.Fatal(r)
	}
	reasons := map[string]string{"markupsafe._speedups": "extension module built for cpython-311", "os": "standard library", "no.where": "no", "../etc/passwd": "name"}
	dec := json.NewDecoder(strings.NewReader(r.Stdout))
	n := 0
	for ; dec.More(); n++ {
		var d struct {
			Name, Reason, Kind, Path string
			Served                   bool
			Size                     int
			Related                  []string
		}
		if err := dec.Decode(&d); err != nil {
			t.Fatal(err)
		}
		if want, refused := reasons[d.Name]; refused != !d.Served || !strings.Contains(d.Reason, want) {
			t.Errorf("%+v", d)
		} else if d.Served && (d.Size == 0 || len(d.Related) == 0 || d.Kind != "package") {
			t.Errorf("%+v", d)
		}
	}
	if n != 5 {
		t.Fatal(r)
	}
}

// --allow and --deny limit what is served, and the child's ImportError has the reason.
func TestPolicy(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "one/__init__.py", "")
	Write(t, dir, "one/open.py", "def f(): return 'open'\n")
	Write(t, dir, "one/closed.py", "def f(): return 'closed'\n")
	Write(t, dir, "onerous.py", "def f(): return 'onerous'\n")
	EachPython(t, func(t *testing.T, p Python) {
		call := func(args ...string) Result {
			return Mitogend(t, dir, append([]string{"call", "-H", p.Target()}, args...)...)
		}
		call("--deny", "one.closed", "one.open:f").Want(t, 0, "\"open\"\n", "")
		r := call("--deny", "one.closed", "one.closed:f")
		if r.Status != 1 || !strings.Contains(r.Stderr, "deny one.closed") {
			t.Error(r)
		}
		r = call("--allow", "one", "onerous:f")
		if r.Status != 1 || !strings.Contains(r.Stderr, "allow one") {
			t.Error(r)
		}
		call("--allow", "one", "one.closed:f").Want(t, 0, "\"closed\"\n", "")
	})
}

// ModuleNotFoundError says where mitogend looked and how to ask, after Python's own words. Code that only looks for a module, or has a
// finder of its own after ours, notices nothing.
func TestWhereWasLooked(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "pk/__init__.py", "")
	Write(t, dir, "program.py", `
import importlib.machinery, importlib.util, sys
import pk
for name in 'absent', 'pk.absent', 'absent.deep', 'json.absent':
    try:
        __import__(name)
    except ModuleNotFoundError as e:
        print(e.name, e)
print(importlib.util.find_spec('absent2'), importlib.util.find_spec('pk.absent2'))
try:
    from pk import nothing
except ImportError as e:
    print(type(e).__name__, str(e)[:28])
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, Finder) if name == 'absent3' else None
    create_module = staticmethod(lambda spec: None)
    exec_module = staticmethod(lambda module: None)
sys.meta_path.append(Finder)
import absent3
print(absent3.__spec__.loader is Finder)
import absent4
`)
	lib := t.TempDir()
	EachPython(t, func(t *testing.T, p Python) {
		if p.Version == "2.7" {
			return
		}
		tail := func(name, where string) string {
			return fmt.Sprintf("No module named '%s' (mitogend: %s; ask there: mitogend modules %s)\n", name, where, name)
		}
		places := "neither here nor in " + dir + ", " + lib
		want := "absent " + tail("absent", places) + "pk.absent " + tail("pk.absent", "not in /master:"+dir+"/pk") + "absent " + tail("absent", places) +
			"json.absent No module named 'json.absent'\nNone None\nImportError cannot import name 'nothing'\nTrue\n"
		r := Mitogend(t, dir, "run", "-I", dir, "-I", lib, "-H", p.Target(), "program.py")
		if r.Status != 1 || r.Stdout != want || !strings.HasSuffix(r.Stderr, "\nModuleNotFoundError: "+tail("absent4", places)) || strings.Contains(r.Stderr, "importlib") {
			t.Errorf("want %s, got %v", want, r)
		}
	})
}

// A zip, an egg and a wheel are path entries, and so are paths in a virtual environment's .pth files.
func TestPathEntries(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "src/zipped/__init__.py", "def f(): return 'zipped'\n")
	Write(t, dir, "plain/inplain.py", "def f(): return 'plain'\n")
	Write(t, dir, "venv/lib/python3.11/site-packages/insite.py", "def f(): return 'site'\n")
	Write(t, dir, "venv/lib/python3.11/site-packages/x.pth", "import sys; sys.stderr.write('never run')\n"+filepath.Join(dir, "plain")+"\n")
	p := AnyPython(t)
	for _, name := range []string{"a.zip", "a.egg", "a-1.0-py3-none-any.whl"} {
		if r := p.Local(t, filepath.Join(dir, "src"), "", "-m", "zipfile", "-c", filepath.Join(dir, name), "zipped"); r.Status != 0 {
			t.Fatal(r)
		}
		Mitogend(t, dir, "call", "-H", p.Target(), "-I", name, "zipped:f").Want(t, 0, "\"zipped\"\n", "")
	}
	for _, f := range []string{"insite:f", "inplain:f"} {
		r := Mitogend(t, dir, "call", "-H", p.Target(), "--venv", "venv", f)
		r.Want(t, 0, r.Stdout, "")
	}
	cmd := Command(t, t.TempDir(), "call", "-H", p.Target(), "inplain:f")
	cmd.Env = append(cmd.Env, "MITOGEND_PATH="+filepath.Join(dir, "nowhere")+":"+filepath.Join(dir, "plain"))
	runCommand(t, cmd).Want(t, 0, "\"plain\"\n", "")
}

func TestTraceImports(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "lib/__init__.py", "import lib.used\n")
	Write(t, dir, "lib/used.py", "")
	Write(t, dir, "lib/late.py", "")
	Write(t, dir, "main.py", "import lib\n__import__('li' + 'b.late')\ntry:\n    __import__('lib.' + 'nowhere')\nexcept ImportError: pass\n")
	EachPython(t, func(t *testing.T, p Python) {
		r := Mitogend(t, dir, "run", "--trace-imports", "-H", p.Target(), "main.py")
		r.Want(t, 0, "", "imports: ")
		r = Mitogend(t, dir, "run", "--trace-imports", "--json", "-H", p.Target(), "main.py")
		how := map[string]string{}
		for _, row := range readLines(t, r)[0].Imports {
			how[row.Module] = row.How
			if want := map[string]string{"lib.used": "lib"}[row.Module]; row.For != want && strings.HasPrefix(row.Module, "lib") {
				t.Errorf("%+v", row)
			}
			if strings.HasPrefix(row.Module, "lib") && !strings.HasPrefix(row.Path, dir) {
				t.Error(row)
			}
		}
		if how["lib"] != "preloaded" || how["lib.used"] != "preloaded" || how["lib.late"] != "answered" {
			t.Error(how)
		}
	})
}

// A trace of the wire has the frames, and only its owner can read it.
func TestTrace(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "trace")
	Mitogend(t, dir, "call", "--trace", file, "-H", AnyPython(t).Target(), "--kw", "password=hush", "os:fsencode", "a").Want(t, 1, "", "password")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if strings.Contains(string(text), "hush") || !strings.Contains(string(text), `CALL_FUNCTION dst=1 src=0 auth=0 reply=10`) ||
		!strings.Contains(string(text), `"fsencode",{"password":"******"},["a"]`) || !strings.Contains(string(text), "CallError") {
		t.Errorf("%s", text)
	}
	oneLine(t, Mitogend(t, dir, "call", "--trace", "/nowhere/trace", "os:getpid"), 2, "--trace /nowhere/trace: no such file")
}
