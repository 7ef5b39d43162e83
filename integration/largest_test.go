package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// largest are programs that use the largest of the most used packages.
var largest = []struct{ name, program string }{
	{"django", `
import django
from django.conf import settings
settings.configure(DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}, SECRET_KEY='x', ROOT_URLCONF=__name__, USE_I18N=False,  # its catalogues are files
                   INSTALLED_APPS=['django.contrib.contenttypes', 'django.contrib.auth'], TEMPLATES=[{'BACKEND': 'django.template.backends.django.DjangoTemplates'}])
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.http import HttpResponse
from django.template import engines
from django.test import Client
from django.urls import path
urlpatterns = [path('hello/<int:n>/', lambda request, n: HttpResponse('hello %d' % n))]
call_command('migrate', verbosity=0)
User.objects.create_user('ada', 'ada@example.org', 'pw')
print(User.objects.filter(username__startswith='a').count(), Client(SERVER_NAME='localhost').get('/hello/3/').content)
print(engines['django'].from_string('{% for u in users %}{{ u.email|upper }}{% endfor %}').render({'users': User.objects.all()}))
`},
	{"sqlalchemy", `
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
class Base(DeclarativeBase):
    pass
class Author(Base):
    __tablename__ = 'author'
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list['Book']] = relationship(back_populates='author')
class Book(Base):
    __tablename__ = 'book'
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sqlalchemy.ForeignKey('author.id'))
    author: Mapped[Author] = relationship(back_populates='books')
engine = sqlalchemy.create_engine('sqlite://')
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add(Author(name='Ada', books=[Book(title='Notes'), Book(title='Letters')]))
    session.commit()
    print(sorted(b.title for b in session.scalars(sqlalchemy.select(Book).join(Author).where(Author.name == 'Ada'))))
`},
	{"boto3", `
import boto3
from botocore.stub import Stubber
key = dict(region_name='eu-central-1', aws_access_key_id='x', aws_secret_access_key='y')
client = boto3.client('s3', **key)
with Stubber(client) as stub:
    stub.add_response('list_buckets', {'Buckets': [{'Name': 'one'}]})
    print(client.list_buckets()['Buckets'], client.generate_presigned_url('get_object', Params={'Bucket': 'b', 'Key': 'k'})[:8])
print(boto3.resource('dynamodb', **key).Table('t').name)
`},
	{"celery", `
import celery
app = celery.Celery('app', broker='memory://', backend='cache+memory://')
app.conf.task_always_eager = True
@app.task
def add(a, b):
    return a + b
print(celery.group(add.s(i, i) for i in range(3))().get(), celery.chain(add.s(1, 2), add.s(4))().get())
`},
	{"aiohttp", `
import asyncio
import aiohttp
from aiohttp import web
async def main():
    async def handle(request):
        return web.json_response({'name': request.match_info['name']})
    server = web.Application()
    server.add_routes([web.get('/{name}', handle)])
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, '127.0.0.1', 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        async with session.get('http://127.0.0.1:%d/ada' % runner.addresses[0][1]) as response:
            print(response.status, await response.json())
    await runner.cleanup()
asyncio.run(main())
`},
}

// TestLargestPackages runs them under the newest Pythons, from the disk and served, with ordinary and with lazy imports. It takes
// a minute, and needs packages that .ci/packages unpacks.
func TestLargestPackages(t *testing.T) {
	path := filepath.Join(pythons.Tree(), "packages")
	if _, err := os.Stat(path); err != nil || os.Getenv("MITOGEND_LONG") == "" {
		t.Skip("MITOGEND_LONG is not set, or .ci/packages was not run: ", err)
	}
	// botocore opens data files beside itself, which needs a disk.
	t.Setenv("AWS_DATA_PATH", filepath.Join(path, "botocore/data")+":"+filepath.Join(path, "boto3/data"))
	dir := t.TempDir()
	for version, modes := range map[string][]string{"3.14": {""}, "3.15": {"", " -X lazy_imports=all"}} {
		p := clean(t, pythons.Of(t, version))
		for _, mode := range modes {
			p := Python{p.Version, p.Command + mode, append(slices.Clone(p.argv), strings.Fields(mode)...)}
			for _, c := range largest {
				t.Run(version+mode+" "+c.name, func(t *testing.T) {
					script := Write(t, dir, c.name+"_program.py", c.program+"raise SystemExit(5)\n")
					here := p.Local(t, dir, path, script)
					there := Mitogend(t, dir, "run", "--daemon", "none", "-I", path, "-H", p.Target(), script)
					if here.Status != 5 && mode == "" {
						t.Fatalf("not even from the disk: %v", here)
					}
					// Some packages cannot be imported lazily; their tracebacks name paths on the disk.
					if here.Status != there.Status || here.Stdout != there.Stdout || here.Status == 5 && here.Stderr != there.Stderr {
						t.Errorf("here %v\nthere %v", here, there)
					}
				})
			}
		}
	}
}
