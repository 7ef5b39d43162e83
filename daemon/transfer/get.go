package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/python"
)

// Get copies files and trees of a child to this machine. Where dest is a directory, or ends with a slash, they go
// into that, each by its own name (topName); otherwise dest is the name of the one, and with Sync it always is.
// Nothing is written anywhere else, whatever the child says, and no file gets a bit of setuid or the like.
func Get(ctx context.Context, r daemon.Remote, names []string, dest string, o Options) (*Result, error) {
	switch {
	case dest == "":
		return nil, ErrNoName
	case o.Sync && len(names) != 1:
		return nil, errors.New("transfer: sync takes one source")
	case o.Xattrs && r.Version().Major == 2:
		return nil, errPython
	}
	g, err := newGet(dest, o, len(names))
	if err != nil {
		return nil, err
	}
	defer g.close()
	return g.run(ctx, r, names)
}

// ErrNoName is for a destination that is an empty string.
var ErrNoName = errors.New("transfer: the destination has no name")

// GetTo writes one file of a child to w. After an error, only a part of it was written.
func GetTo(ctx context.Context, r daemon.Remote, name string, w io.Writer, o Options) (*Result, error) {
	o.Xattrs = false // there is nothing to give them to
	g := &get{o: &o, to: w}
	return g.run(ctx, r, []string{name})
}

// get is the receiving side.
type get struct {
	*session
	o      *Options
	a      algorithm
	result *Result
	asked  map[string]bool // by topName: what the paths of the child may begin with
	base   *os.Root        // where that lies; nil where DryRun would make it
	name   string          // takes the place of the one that was asked for; empty for none
	// root is base, or once that is a directory (inside), the one at of base, so that no link leads past it. barred
	// is one that cannot be entered, and why.
	root    *os.Root
	inside  bool
	at      string
	barred  string
	why     error
	to      io.Writer // of GetTo
	dirs    []entry
	led     map[string]bool        // directories in root that a link leads to
	failed  map[string]bool        // of HardLinks: files that are not in place, by what the child calls them
	kept    int                    // bytes, of dirs and of what is compared
	buf     []byte                 // of copyBlock
	opened  []opened               // of allowed
	paths   map[[2]uint64][]string // of Delete: see sameDirs
	without bool                   // it was told that a file system has no attributes
	ids     map[string]int
}

func newGet(dest string, o Options, sources int) (*get, error) {
	info, err := os.Stat(dest)
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", dest, errSpecial)
	}
	into := o.Into || strings.HasSuffix(dest, "/") || sources > 1 || err == nil && info.IsDir()
	if name := filepath.Base(dest); name == "." || name == ".." {
		into = true // it is no name to give
	}
	g := &get{o: &o, ids: map[string]int{}, led: map[string]bool{}, failed: map[string]bool{}}
	if o.Sync {
		into = false
		// What is named may be a link, and lead anywhere.
		if dest, err = filepath.Abs(dest); err == nil {
			if real, err := filepath.EvalSymlinks(dest); err == nil {
				dest = real
			}
		}
		if err == nil && dest == "/" {
			err = errors.New("all of this machine cannot be the destination of sync")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dest, err)
		}
	}
	dir := dest
	if !into {
		dir, g.name = filepath.Split(dest)
		if dir == "" {
			dir = "."
		}
	}
	if o.DryRun {
		if g.base, err = os.OpenRoot(dir); errors.Is(err, fs.ErrNotExist) {
			return g, nil
		}
	} else if err = os.MkdirAll(dir, 0o777); err == nil {
		g.base, err = os.OpenRoot(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, cause(err))
	}
	g.root = g.base
	return g, nil
}

func (g *get) close() {
	if g.inside {
		_ = g.root.Close()
	}
	if g.base != nil {
		_ = g.base.Close()
	}
}

// topName is what a source of a child is called here: by the last part of its path. Where that is for the child to
// say, as of "~" or "..", it is called something else, since the child must not choose a name.
func topName(source string) string {
	const unknown = "\x00" // nothing has it in its name
	clean, user := source, ""
	if strings.HasPrefix(source, "~") {
		first, rest, deep := strings.Cut(source, "/")
		if clean, user = unknown, first[1:]; deep {
			clean += "/" + rest
		}
	}
	switch name := path.Base(path.Clean(clean)); name {
	case "/":
		return "root"
	case ".":
		return "current"
	case "..":
		return "parent"
	case unknown:
		if user != "" && user != "." && user != ".." {
			return user
		}
		return "home"
	default:
		return name
	}
}

// ask gives the arguments of the program: what each source is called, and where it is. Of several with one name the
// first is copied.
func (g *get) ask(names []string) (args []string) {
	g.asked = map[string]bool{}
	first := map[string]string{}
	for _, each := range names {
		name := topName(each)
		switch source, twice := first[name]; {
		case !twice:
			first[name], g.asked[name] = each, true
			args = append(args, name, each)
		case path.Clean(source) != path.Clean(each):
			g.result.fail(each + ": " + errTwice.Error())
		}
	}
	return args
}

func (g *get) run(ctx context.Context, r daemon.Remote, names []string) (*Result, error) {
	g.a, g.result = algorithmOf(r.Version().Major), &Result{}
	g.session = start(ctx, r, python.Send(), append([]string{g.o.letters(g.a)}, g.ask(names)...)...)
	err := g.end(g.receive(ctx))
	switch {
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && len(g.result.Errors) > 0:
		err = &Error{g.result}
	}
	return g.result, err
}

func (g *get) receive(ctx context.Context) error {
	if g.o.Sync {
		if err := g.compare(ctx); err != nil {
			return err
		}
	}
	for {
		tag, data, err := g.reader.read()
		switch {
		case err != nil:
			return err
		case tag == 'q':
			g.finishDirs()
			return nil
		case g.o.DryRun && tag != 'e':
			return errProtocol // it was told that nothing is to be sent
		case tag == 'e':
			g.result.fail(string(data))
			continue
		}
		e, rest, err := g.entry(data)
		if err != nil {
			return err
		}
		from := e.path
		if e.path, err = g.place(from); err != nil {
			return err
		}
		switch {
		case e.path == "" && g.barred != "":
			err = g.why
			if tag == 'F' {
				err = errors.Join(err, g.reply('x'))
			}
		case e.path == "":
			return errProtocol
		case g.to != nil && (tag != 'f' && tag != 'F' || g.result.Files > 0):
			err = fatalError{fmt.Errorf("%s: it is no file", from)}
		case tag == 'F':
			err = g.large(ctx, &e)
		case tag == 'd':
			err = g.directory(&e)
		case tag == 'l' && !strings.Contains(from, "/"):
			return errProtocol // a source is followed, and no link may stand where the next transfer writes
		case tag == 'l':
			err = g.symlink(&e)
		case tag == 'h':
			err = g.hardLink(&e)
		case tag == 'f':
			err = g.small(&e, rest)
		default:
			return errProtocol
		}
		var fatal fatalError
		switch {
		case errors.As(err, &fatal):
			return fatal.error
		case err != nil && g.o.HardLinks && g.to == nil && !g.failed[from]:
			if err := g.keep(from); err != nil {
				return err
			}
			g.failed[from] = true
		}
		switch {
		case err == nil && tag == 'd':
		case errors.Is(err, errAbandoned):
			// The child says why.
		case err != nil:
			g.result.fail(from + ": " + cause(err).Error())
		default:
			g.result.Files++
			g.result.Bytes += e.size
		}
	}
}

var errUnasked = errors.New("transfer: the other side sends what it was not asked for")

// place is where in root a file goes; empty where it would lie in a directory that has not come.
func (g *get) place(name string) (string, error) {
	first, below, deep := strings.Cut(name, "/")
	if !g.asked[first] {
		return "", errUnasked
	}
	if g.name != "" {
		first = g.name
	}
	if g.inside && first != g.at {
		g.leave()
	}
	if g.barred != first || !deep {
		g.barred = ""
	}
	switch {
	case g.inside && deep:
		return below, nil
	case g.inside:
		return top, nil
	case deep:
		return "", nil
	}
	return first, nil
}

// top is the directory that was asked for, as seen from itself.
const top = "."

// enter makes a directory of base the root.
func (g *get) enter(name string) error {
	root, err := g.openTree(name)
	if err == nil {
		g.root, g.at, g.inside = root, name, true
	}
	return err
}

// openTree opens a directory of base. By name, it is no link: a link that the user has made was followed before.
func (g *get) openTree(name string) (*os.Root, error) {
	look := g.base.Stat
	if g.name != "" {
		look = g.base.Lstat
	}
	info, err := look(name)
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return nil, err
	}
	root, err := g.base.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if there, err := root.Stat(top); err != nil || !os.SameFile(info, there) {
		_ = root.Close()
		return nil, unix.ENOTDIR
	}
	return root, nil
}

// leave makes base the root again.
func (g *get) leave() {
	g.finishDirs()
	_ = g.root.Close()
	g.root, g.inside, g.dirs = g.base, false, nil
	clear(g.led)
}

// fatalError ends the transfer, not just one file.
type fatalError struct{ error }

func (g *get) directory(e *entry) error {
	if !g.inside {
		name := e.path
		err := g.enter(name)
		if errors.Is(err, fs.ErrNotExist) {
			if err = g.base.Mkdir(name, 0o700); err == nil {
				err = g.enter(name)
			}
		}
		switch {
		case err != nil && g.name != "":
			return fatalError{fmt.Errorf("%s: %w", path.Join(g.base.Name(), name), cause(err))}
		case err != nil:
			g.barred, g.why = name, err
			return err
		}
		e.path = top
	}
	info, err := g.root.Stat(e.path)
	if g.o.Sync && (err != nil || !info.IsDir()) {
		if info, lerr := g.root.Lstat(e.path); lerr == nil && !info.IsDir() {
			_ = g.root.Remove(e.path)
			_, err = g.root.Stat(e.path)
		}
	}
	led := e.path != top && g.led[path.Dir(e.path)]
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err, led = g.root.Mkdir(e.path, 0o700), false
	case err == nil && !info.IsDir():
		err = unix.ENOTDIR
	case err == nil:
		if info, err = g.root.Lstat(e.path); err != nil || led || info.Mode()&fs.ModeSymlink != 0 {
			g.led[e.path] = true // it gets no attributes
			return err
		}
		if st, _ := info.Sys().(*syscall.Stat_t); info.Mode()&0o700 != 0o700 && st != nil && int(st.Uid) == os.Geteuid() {
			err = g.root.Chmod(e.path, info.Mode()|0o700)
		}
	}
	if err == nil {
		texts := []string{e.path, e.link, e.user, e.group}
		for name, value := range e.xattrs {
			texts = append(texts, name, value)
		}
		if err := g.keep(texts...); err != nil {
			return fatalError{err}
		}
		g.dirs = append(g.dirs, *e)
	}
	return err
}

func (g *get) finishDirs() {
	for i := len(g.dirs) - 1; i >= 0; i-- {
		e := &g.dirs[i]
		f, err := g.open(e.path, os.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == nil {
			err = g.finish(f, e)
			_ = f.Close()
		}
		if err != nil {
			g.result.fail(path.Join(g.root.Name(), e.path) + ": " + cause(err).Error())
		}
	}
}

// finish gives an open file its owner, mode and time. Something else may be there by its name.
func (g *get) finish(f *os.File, e *entry) error {
	if g.o.Owner {
		if err := f.Chown(g.owner(e)); err != nil {
			return err
		}
	}
	if e.xattrs != nil {
		if err := g.setXattrs(f, e); err != nil {
			return err
		}
	}
	if err := f.Chmod(fs.FileMode(e.mode & 0o777)); err != nil {
		return err
	}
	return setTime(f, e.mtime)
}

// setTime is futimens, which package unix has with microseconds.
func setTime(f *os.File, mtime int64) error {
	when := [2]unix.Timespec{unix.NsecToTimespec(mtime), unix.NsecToTimespec(mtime)}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&when)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// owner gives the numbers that it is to have here.
func (g *get) owner(e *entry) (uid, gid int) {
	return g.id(e.user, int(e.uid), userID), g.id(e.group, int(e.gid), groupID)
}

// maxOwner bounds the length of an owner's name that is looked up, maxOwners how many are kept.
const (
	maxOwner  = 256
	maxOwners = 10000
)

// id gives the number of a name here, or the number that came where the name is not known.
func (g *get) id(name string, number int, look func(string) (string, error)) int {
	if name == "" || len(name) > maxOwner {
		return number
	}
	if len(g.ids) == maxOwners {
		clear(g.ids)
	}
	key := fmt.Sprintf("%p %s", look, name)
	if id, ok := g.ids[key]; ok {
		return id
	}
	if text, err := look(name); err == nil {
		if n, err := strconv.Atoi(text); err == nil {
			number = n
		}
	}
	g.ids[key] = number
	return number
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	gr, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return gr.Gid, nil
}

// hidden begins the names of unfinished files, and partSuffix ends that of one which the next transfer goes on with.
const (
	hidden     = ".mitogend-"
	partSuffix = ".part"
)

// temporaries counts those of all transfers, several of which may write to one directory. Processes that were killed,
// and other machines, have other names.
var (
	temporaries atomic.Int64
	mine        = sync.OnceValue(func() string { return hidden + strings.ToLower(rand.Text()[:12]) })
)

func (g *get) temporary(name string) string {
	return path.Join(path.Dir(name), fmt.Sprintf("%s-%d", mine(), temporaries.Add(1)))
}

// free tells whether a file can take the name. A directory gives way where what is not at the source is deleted.
func (g *get) free(name string) error {
	if info, err := g.root.Lstat(name); err == nil && info.IsDir() {
		if !g.o.Delete || !g.inside || name == top {
			return unix.EISDIR
		}
		g.remove(name, true, false)
	}
	return nil
}

// rename puts a temporary file in place, or removes it.
func (g *get) rename(tmp, name string, err error) error {
	if err == nil {
		err = g.free(name)
	}
	if err == nil {
		err = g.root.Rename(tmp, name)
	}
	if err != nil {
		_ = g.root.Remove(tmp)
	}
	return err
}

func (g *get) symlink(e *entry) error {
	e.size = 0
	tmp := g.temporary(e.path)
	err := g.root.Symlink(e.link, tmp)
	if err == nil && g.o.Owner {
		uid, gid := g.owner(e)
		err = g.root.Lchown(tmp, uid, gid)
	}
	return g.rename(tmp, e.path, err)
}

// hardLink gives a file that has come before another name.
func (g *get) hardLink(e *entry) error {
	e.size = 0
	root, first, err := g.first(e)
	if err == nil && g.failed[e.link] {
		err = errUnlinked
	}
	if err != nil {
		return err
	}
	if root != g.root && root != g.base {
		defer root.Close()
	}
	info, err := root.Lstat(first)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("the target of its hard link is no file")
	}
	if err != nil || linked(root, first, g.root, e.path) {
		return err
	}
	tmp := g.temporary(e.path)
	if err := link(root, first, g.root, tmp); err != nil {
		return err
	}
	if there, lerr := g.root.Lstat(tmp); lerr != nil || !os.SameFile(info, there) {
		err = errDiffers // another transfer may have put a link there
	}
	return g.rename(tmp, e.path, err)
}

// first is where the file is that an entry is a hard link to. The root may be a new one.
func (g *get) first(e *entry) (root *os.Root, name string, err error) {
	first, below, deep := strings.Cut(e.link, "/")
	if !g.o.HardLinks || path.Clean("/"+e.link) != "/"+e.link || !g.asked[first] {
		return nil, "", fatalError{errProtocol}
	}
	if g.name != "" {
		first = g.name
	}
	switch {
	case g.inside && g.at == first && deep:
		return g.root, below, nil
	case !deep && g.name == "":
		return g.base, first, nil
	case g.name != "":
		return nil, "", fatalError{errProtocol} // the one source has no other name outside of it
	}
	root, err = g.openTree(first)
	return root, below, err
}

// linked tells whether two names are those of one file.
func linked(root *os.Root, name string, otherRoot *os.Root, other string) bool {
	a, err := root.Lstat(name)
	if err != nil {
		return false
	}
	b, err := otherRoot.Lstat(other)
	return err == nil && os.SameFile(a, b)
}

// link makes a hard link from one root to another: no link of either leads out of it.
func link(root *os.Root, name string, newRoot *os.Root, newName string) error {
	from, err := openDir(root, path.Dir(name))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openDir(newRoot, path.Dir(newName))
	if err != nil {
		return err
	}
	defer to.Close()
	return unix.Linkat(int(from.Fd()), path.Base(name), int(to.Fd()), path.Base(newName), 0)
}

// openDir opens a directory, and waits for no FIFO.
func openDir(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// open opens a file that is no link itself. A Root follows one that stays inside, whatever the flags.
func (g *get) open(name string, flags int, perm uint32) (*os.File, error) {
	dir, err := openDir(g.root, path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	for {
		fd, err := unix.Openat(int(dir.Fd()), path.Base(name), flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &fs.PathError{Op: "openat", Path: name, Err: err}
		default:
			return os.NewFile(uintptr(fd), name), nil
		}
	}
}

var errDiffers = errors.New("it came damaged, or was changed while it was read")

func (g *get) small(e *entry, rest []byte) error {
	if len(rest) < digestLen || int64(len(rest)-digestLen) != e.size {
		return fatalError{errProtocol}
	}
	data := rest[digestLen:]
	if g.a.sum(data) != digest(rest) {
		return errDiffers
	}
	g.result.Sent += e.size
	if g.o.OnBytes != nil {
		g.o.OnBytes(e.size)
	}
	if g.to != nil {
		_, err := g.to.Write(data)
		return err
	}
	tmp := g.temporary(e.path)
	f, err := g.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = g.finish(f, e)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return g.rename(tmp, e.path, err)
}
