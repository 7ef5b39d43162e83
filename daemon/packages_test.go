package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mitogend/importer"
	"mitogend/integration/pythons"
)

const debian = "/usr/lib/python3/dist-packages"

// programs do with a real package what its users do. The result of run is the same wherever the package comes from.
var programs = []struct {
	name     string
	packages []string // what of Debian's packages is on the path
	pythons  []string // the oldest and the newest on which they run
	imports  string   // for the measurement of a bare import
	source   string
}{
	{"jinja2", []string{"jinja2", "markupsafe"}, []string{"3.7", "3.13"}, "jinja2", `
import jinja2

def run():
    env = jinja2.Environment(loader=jinja2.DictLoader({'base': '<{% block b %}{% endblock %}>', 'page': '{% extends "base" %}{% block b %}{{ names|join(", ") }}{% endblock %}'}))
    try:
        env.from_string('{% for %}')
    except jinja2.TemplateSyntaxError as e:
        error = e.message
    return [env.get_template('page').render(names=['a', 'b']), error]
`},
	{"sqlalchemy", []string{"sqlalchemy", "greenlet"}, []string{"3.8", "3.13"}, "sqlalchemy.orm", `
import sqlalchemy
from sqlalchemy import Column, ForeignKey, Integer, String, create_engine
from sqlalchemy.orm import declarative_base, relationship, sessionmaker

Base = declarative_base()

class User(Base):
    __tablename__ = 'users'
    id = Column(Integer, primary_key=True)
    name = Column(String(20))
    posts = relationship('Post', back_populates='user')

class Post(Base):
    __tablename__ = 'posts'
    id = Column(Integer, primary_key=True)
    title = Column(String(20))
    user_id = Column(Integer, ForeignKey('users.id'))
    user = relationship('User', back_populates='posts')

def run():
    engine = create_engine('sqlite://')
    Base.metadata.create_all(engine)
    session = sessionmaker(bind=engine)()
    session.add(User(name=u'ann', posts=[Post(title=u'one'), Post(title=u'two')]))
    session.commit()
    query = session.query(Post).join(User).filter(User.name == u'ann').order_by(Post.title.desc())
    return [u'%s by %s' % (p.title, p.user.name) for p in query]
`},
	{"django", []string{"django", "asgiref", "pytz", "sqlparse"}, []string{"3.9", "3.12"}, "django.db.models", `
import django
from django.conf import settings

def run():
    settings.configure(DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}},
                       INSTALLED_APPS=['django.contrib.contenttypes', 'django.contrib.auth'], USE_TZ=True, USE_I18N=False, DEFAULT_AUTO_FIELD='django.db.models.AutoField')
    django.setup()
    from django.db import connection, models

    class Item(models.Model):
        name = models.CharField(max_length=20)
        price = models.DecimalField(max_digits=6, decimal_places=2)

        class Meta:
            app_label = 'shop'
    with connection.schema_editor() as editor:
        editor.create_model(Item)
    Item.objects.create(name='pen', price='1.50')
    Item.objects.create(name='book', price='12.00')
    from django.contrib.auth.models import User
    rows = Item.objects.filter(price__gt=1).order_by('-price').aggregate(models.Sum('price'), models.Count('id'))
    return [u'%s' % rows['price__sum'], rows['id__count'], [i.name for i in Item.objects.filter(name__startswith='b')], User._meta.label]
`},
}

// debianPath makes a path of these packages of Debian's and the programs only.
func debianPath(t testing.TB, names ...string) string {
	t.Helper()
	files := map[string]string{"import_probe.py": probe}
	for _, p := range programs {
		files["use_"+p.name+".py"] = p.source
		files["cold_"+p.name+".py"] = "import " + p.imports + "\n\ndef run():\n    pass\n"
	}
	dir := writeFiles(t, files)
	for _, name := range names {
		path := filepath.Join(debian, name)
		if _, err := os.Stat(path); err != nil {
			pythons.Missing(t, "Debian's package is missing: ", err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPackages: real packages do their work in children: served and pushed ahead, served on demand, and from the
// child's own disk. The outcome is the same on each interpreter, or on two if MITOGEND_IMPORT_ROUNDS is not set.
func TestPackages(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			dir := debianPath(t, p.packages...)
			d := newDaemon(t, Options{Path: []string{dir}})
			bare := newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"import_probe.py": probe})}})
			for _, py := range pythons.All(t) {
				must := slices.Contains(p.pythons, py.Version)
				if !must && os.Getenv("MITOGEND_IMPORT_ROUNDS") == "" {
					continue
				}
				t.Run(py.Version, func(t *testing.T) {
					local, _ := importing(t, bare, py, ConnectOptions{Env: []string{"PYTHONPATH=" + dir, "PYTHONDONTWRITEBYTECODE=1"}})
					defer local.Close(deadline(t))
					var want []any
					if err := local.Call(deadline(t), "use_"+p.name+":run").Decode(&want); err != nil {
						if must {
							t.Fatal(err)
						}
						t.Skipf("does not run on this interpreter from its own disk: %v", strings.Split(err.Error(), "\n")[0])
					}
					ahead, r := importing(t, d, py, ConnectOptions{})
					defer ahead.Close(deadline(t))
					var got []any
					if err := ahead.Call(deadline(t), "use_"+p.name+":run").Decode(&got); err != nil {
						t.Fatal(err)
					}
					if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
						t.Errorf("pushed ahead: %q, want %q", got, want)
					}
					trips := r.roundTrips()
					t.Logf("pushed ahead: %d preloaded, round trips %d: %v", len(r.names(importer.Preloaded)), len(trips), trips)

					demand, r := importing(t, d, py, ConnectOptions{})
					defer demand.Close(deadline(t))
					run(t, demand, "result = __import__('use_"+p.name+"').run()", &got)
					if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
						t.Errorf("on demand: %q, want %q", got, want)
					}
					trips = r.roundTrips()
					t.Logf("on demand: %d preloaded, round trips %d: %v", len(r.names(importer.Preloaded)), len(trips), trips)
					names := r.names(importer.Preloaded, importer.Answered)
					slices.Sort(names)
					if n := len(names); n != len(slices.Compact(names)) {
						t.Error("a module was sent twice")
					}
				})
			}
		})
	}
}

// TestPackagesOverSlowLink imports packages over a link of 100 ms round trip: for a call, which pushes what it needs
// ahead, and on demand. Then there is one round trip, also for a module in packages that are not there yet.
func TestPackagesOverSlowLink(t *testing.T) {
	const rtt = 100 * time.Millisecond
	list := pythons.All(t)
	i := slices.IndexFunc(list, func(p pythons.Python) bool { return p.Version == "3.12" })
	if i < 0 {
		t.Skip("there is no Python 3.12, the newest that has all of them")
	}
	py := list[i]
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			d := newDaemon(t, Options{Path: []string{debianPath(t, p.packages...)}})
			cold := func(py pythons.Python, pushed bool) (time.Duration, []string) {
				c, r := importing(t, d, py, ConnectOptions{})
				defer c.Close(deadline(t))
				fn, args := "cold_"+p.name+":run", []any{}
				if !pushed {
					fn, args = "import_probe:run", []any{"import " + p.imports + "; result = 1"}
				}
				start := time.Now()
				if err := c.Call(deadline(t), fn, args...).Err(); err != nil {
					t.Fatal(err)
				}
				return time.Since(start), r.roundTrips()
			}
			cold(py, true) // the daemon's own caches
			for _, pushed := range []bool{true, false} {
				near, _ := cold(py, pushed)
				far, trips := cold(overLink(t, py, rtt), pushed)
				t.Logf("import %s, pushed %v: %v, over %v: %v, %d round trips for modules: %v", p.imports, pushed,
					near.Round(time.Millisecond), rtt, far.Round(time.Millisecond), len(trips), trips)
				most := 0
				if !pushed {
					most = 1
				}
				if len(trips) > most {
					t.Errorf("%d round trips for modules, at most %d are wanted: %v", len(trips), most, trips)
				}
			}
		})
	}
}
