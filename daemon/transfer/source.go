package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Source is what is put: files and trees of this machine. It is safe for concurrent use.
type Source struct {
	Files int
	Bytes int64
	// Errors are what cannot be read, one text each.
	Errors []string

	items    []*item
	once     bool
	special  bool             // what is not copied is an item as well, so that the child is asked about it
	unlisted string           // the first of Errors that is not about such a file
	keep     func(n int) bool // Options.Keep
	full     bool             // it has refused
	open     *os.File         // of NewFile
	// links are names of files that have more than one, by device and inode; nil where they are not looked for
	links map[[2]uint64]string

	mu     sync.Mutex // guards the following
	cached int        // bytes of small files that are in memory
	order  []*item    // of these, the oldest first
}

// item is one file of it.
type item struct {
	entry
	name string // here

	mu     sync.Mutex // guards the following
	at     version    // of it
	data   []byte     // of a small one, nil if it is not cached
	told   []byte     // its attributes beside that, as Put sends them; nil if nobody has asked for them
	sums   [algorithms]digest
	summed [algorithms]bool
	blocks *blockSums // of a large one
}

// blockSums are digests of a large file's blocks, as far as they are known.
type blockSums struct {
	mu      sync.Mutex // guards the following
	digests [algorithms][]digest
	known   [algorithms][]bool
}

// maxCached is how much of small files is kept for targets that are behind.
const maxCached = 64 << 20

// itemSize is about what an item takes, beside its texts.
const itemSize = 400

// Once says that it is for one target only, so that nothing that was read is kept for others.
func (s *Source) Once() { s.once = true }

// NewSource lists files and trees, as Put is to copy them.
func NewSource(names []string, o Options) (*Source, error) {
	s := &Source{keep: o.Keep, special: o.Delete}
	if o.HardLinks {
		s.links = map[[2]uint64]string{}
	}
	look := &lookup{users: map[uint32]string{}, groups: map[uint32]string{}, on: o.Owner}
	first := map[string]string{}
	for _, name := range names {
		if _, err := os.Stat(name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, cause(err))
		}
		absolute, err := filepath.Abs(name)
		if err != nil {
			return nil, err
		}
		base := filepath.Base(absolute)
		if base == "/" {
			base = "root"
		}
		if source, twice := first[base]; twice {
			if source != absolute {
				s.fail(name, errTwice)
			}
			continue
		}
		first[base] = absolute
		s.add(name, base, look)
	}
	switch {
	case s.full:
		return nil, ErrTooMany
	case o.Delete && s.unlisted != "":
		return nil, fmt.Errorf("%s; nothing is deleted while something cannot be read", s.unlisted)
	}
	return s, nil
}

// NewFile is a source of one open file under a name.
func NewFile(f *os.File, name string) (*Source, error) {
	s := &Source{open: f}
	s.add(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), name, &lookup{})
	return s, nil
}

func (s *Source) add(name, path string, look *lookup) {
	if s.full = s.full || s.keep != nil && !s.keep(itemSize+len(name)+len(path)); s.full {
		return
	}
	var st unix.Stat_t
	err := unix.Lstat(name, &st)
	if path == filepath.Base(path) {
		err = unix.Stat(name, &st) // what is named may be a link
	}
	it := &item{name: name, entry: entry{path: path, mode: st.Mode, mtime: st.Mtim.Nano(), uid: st.Uid,
		gid: st.Gid}}
	it.user, it.group = look.names(st.Uid, st.Gid)
	switch {
	case err != nil:
		s.fail(name, err)
	case len(path) > 0xffff:
		s.fail(name, errors.New("its name is too long"))
	case it.kind() == unix.S_IFDIR:
		s.items = append(s.items, it)
		list, err := os.ReadDir(name)
		if err != nil {
			s.fail(name, err)
		}
		for _, each := range list {
			if s.full {
				return
			}
			s.add(name+"/"+each.Name(), path+"/"+each.Name(), look)
		}
	case it.kind() == unix.S_IFLNK:
		if it.link, err = os.Readlink(name); err != nil {
			s.fail(name, err)
			return
		}
		s.items = append(s.items, it)
		s.Files++
	case it.kind() == unix.S_IFREG && s.linked(it, &st):
		s.items = append(s.items, it)
		s.Files++
	case it.kind() == unix.S_IFREG:
		it.size = st.Size
		s.items = append(s.items, it)
		s.Files++
		s.Bytes += it.size
	default:
		s.fail(name, errSpecial)
		if s.special {
			s.items = append(s.items, it)
		}
	}
}

var (
	errSpecial = errors.New("it is no file, directory or link")
	errTwice   = errors.New("another source has the same name, and it would take its place")
)

// linked tells whether a file is one that has come by another name.
func (s *Source) linked(it *item, st *unix.Stat_t) bool {
	if s.links == nil || st.Nlink < 2 {
		return false
	}
	key := [2]uint64{uint64(st.Dev), st.Ino}
	if first, ok := s.links[key]; ok {
		it.link = first
		return true
	}
	s.links[key] = it.path
	return false
}

func (s *Source) fail(name string, err error) {
	if s.unlisted == "" && !errors.Is(err, errSpecial) {
		s.unlisted = fmt.Sprintf("%s: %v", name, cause(err))
	}
	if len(s.Errors) == maxErrors {
		return
	}
	s.Errors = append(s.Errors, fmt.Sprintf("%s: %v", name, cause(err)))
}

// cause is an error without the path, which is told anyway.
func cause(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// lookup finds names of owners, each once.
type lookup struct {
	on            bool
	users, groups map[uint32]string
}

func (l *lookup) names(uid, gid uint32) (string, string) {
	if !l.on {
		return "", ""
	}
	if _, ok := l.users[uid]; !ok {
		l.users[uid] = ""
		if u, err := user.LookupId(strconv.Itoa(int(uid))); err == nil {
			l.users[uid] = u.Username
		}
	}
	if _, ok := l.groups[gid]; !ok {
		l.groups[gid] = ""
		if g, err := user.LookupGroupId(strconv.Itoa(int(gid))); err == nil {
			l.groups[gid] = g.Name
		}
	}
	return l.users[uid], l.groups[gid]
}

var (
	errShorter = errors.New("it has become shorter while it was read")
	errChanged = errors.New("it was changed while it was read")
	errEndless = errors.New("it does not say how large it is, and has more than 252 KiB")
)

// version is a file as it was when it was opened: since it was listed, another one may have taken its name.
type version struct {
	dev, ino           uint64
	mode, uid, gid     uint32
	size, mtime, ctime int64
}

func versionOf(f *os.File) (version, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return version{dev: uint64(st.Dev), ino: st.Ino, mode: st.Mode, uid: st.Uid, gid: st.Gid, size: st.Size,
		mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano()}, err
}

// check fails if an open file is not what it was. If it has only grown, what was read is how it began.
func (v *version) check(f *os.File) error {
	now, err := versionOf(f)
	if err == nil && (now.size < v.size || now.size == v.size && now.mtime != v.mtime) {
		return errChanged
	}
	return err
}

// content is a file as it was read.
type content struct {
	entry
	told  []byte // its attributes, if they are wanted
	data  []byte // of a small one
	sum   digest
	large *blockReader
}

// read gives a small file's content and its digest, or opens a large one. A small one is read once for targets that
// are about as far. Its attributes are those of the same file.
func (s *Source) read(it *item, a algorithm, attributes bool) (content, error) {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.data == nil || attributes && it.told == nil {
		f, at, err := it.open(os.O_RDONLY, unix.S_IFREG)
		if err != nil {
			return content{}, err
		}
		var told []byte
		if attributes {
			if told, err = packXattrs(f); err != nil {
				_ = f.Close()
				return content{}, err
			}
		}
		if at.size >= block {
			if it.blocks == nil || it.at != at {
				it.at, it.blocks = at, &blockSums{}
			}
			s.drop(it)
			r := &blockReader{at: at, sums: it.blocks, once: s.once, a: a, f: f, buf: make([]byte, block)}
			return content{entry: it.as(at, at.size), told: told, large: r}, nil
		}
		data, err := at.all(f)
		_ = f.Close()
		if err != nil {
			return content{}, err
		}
		s.drop(it)
		it.at, it.data, it.told, it.summed = at, data, told, [algorithms]bool{}
		s.cache(it)
	}
	if !it.summed[a] {
		it.sums[a], it.summed[a] = a.sum(it.data), true
	}
	return content{entry: it.as(it.at, int64(len(it.data))), told: it.told, data: it.data, sum: it.sums[a]}, nil
}

// open opens a file or directory. Only what was named may be a link.
func (it *item) open(flags int, kind uint32) (*os.File, version, error) {
	flags |= unix.O_NONBLOCK
	if strings.Contains(it.path, "/") {
		flags |= unix.O_NOFOLLOW
	}
	f, err := os.OpenFile(it.name, flags, 0)
	if err != nil {
		return nil, version{}, err
	}
	at, err := versionOf(f)
	if err == nil && at.mode&unix.S_IFMT != kind {
		err = errSpecial
		if kind == unix.S_IFDIR {
			err = unix.ENOTDIR
		}
	}
	if err != nil {
		_ = f.Close()
	}
	return f, at, err
}

// as is what is told of the file as it was opened. Nothing of what was listed is mixed with it: another file may have
// been there, of somebody with other rights.
func (it *item) as(at version, size int64) entry {
	e := it.entry
	e.mode, e.mtime, e.size = at.mode, at.mtime, size
	if e.uid != at.uid {
		e.uid, e.user = at.uid, ""
	}
	if e.gid != at.gid {
		e.gid, e.group = at.gid, ""
	}
	return e
}

// all reads a small file. What the kernel makes may have a size of nothing, or of a page: what comes is its content.
func (v *version) all(f *os.File) (data []byte, err error) {
	if v.size == 0 {
		if data, err = io.ReadAll(io.LimitReader(f, block)); len(data) == 0 {
			data = []byte{}
		}
	} else {
		data = make([]byte, v.size)
		var n int
		n, err = io.ReadFull(f, data)
		data = data[:n]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
	}
	if err == nil && len(data) == block {
		err = errEndless
	}
	if err == nil {
		err = v.check(f)
	}
	return data, err
}

// cache counts what a file takes, and drops the oldest of others. The caller holds it.mu; those of others are only
// tried.
func (s *Source) cache(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cached += len(it.data) + len(it.told)
	s.order = append(s.order, it)
	limit := maxCached
	if s.once {
		limit = 0
	}
	for i := 0; s.cached > limit && i < len(s.order); {
		old := s.order[i]
		if old == it || !old.mu.TryLock() {
			i++
			continue
		}
		s.forget(i)
		old.mu.Unlock()
	}
}

// drop forgets what is kept of one that is read again. The caller holds it.mu.
func (s *Source) drop(it *item) {
	if it.data == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(slices.Index(s.order, it))
}

// forget drops one of order. The caller holds both locks.
func (s *Source) forget(i int) {
	it := s.order[i]
	s.cached -= len(it.data) + len(it.told)
	it.data, it.told = nil, nil
	s.order = slices.Delete(s.order, i, i+1)
}

// digest gives the digest of a block, if it is known.
func (b *blockSums) digest(a algorithm, number int) (d digest, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known[a] == nil || !b.known[a][number] {
		return d, false
	}
	return b.digests[a][number], true
}

func (b *blockSums) learn(a algorithm, number, blocks int, d digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known[a] == nil {
		b.known[a], b.digests[a] = make([]bool, blocks), make([]digest, blocks)
	}
	b.known[a][number], b.digests[a][number] = true, d
}

// whole gives the digest of all of a file, in place of its content.
func (s *Source) whole(it *item, a algorithm, attributes bool) (content, error) {
	c, err := s.read(it, a, attributes)
	if err != nil {
		return content{}, err
	}
	r := c.large
	if r == nil {
		var list []byte
		if len(c.data) > 0 {
			list = c.sum[:]
		}
		c.sum = a.sum(list)
		return c, nil
	}
	defer r.close()
	root := a.new()
	for n := range blocksOf(r.at.size) {
		_, d, err := r.block(n)
		if err != nil {
			return content{}, err
		}
		_, _ = root.Write(d[:])
	}
	c.sum = digest(root.Sum(nil))
	return c, r.at.check(r.f)
}

// blockReader reads a large file for one target.
type blockReader struct {
	at   version
	sums *blockSums
	once bool // digests are of no further use
	a    algorithm
	f    *os.File
	data int64 // nothing but holes lies before, from where it was looked up
	buf  []byte
}

func (r *blockReader) close() { _ = r.f.Close() }

// block gives a block and its digest; no bytes where all are zeros. They are good until the next call.
func (r *blockReader) block(number int) ([]byte, digest, error) {
	at := int64(number) * block
	n := int(min(block, r.at.size-at))
	if at+int64(n) > r.data {
		r.data = nextData(r.f, max(at, r.data), r.at.size)
	}
	if at+int64(n) <= r.data {
		return nil, r.a.zero(n), nil
	}
	if _, err := io.ReadFull(io.NewSectionReader(r.f, at, int64(n)), r.buf[:n]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errShorter
		}
		return nil, digest{}, err
	}
	if string(r.buf[:n]) == string(zeros[:n]) {
		return nil, r.a.zero(n), nil
	}
	d, ok := r.sums.digest(r.a, number)
	if !ok {
		d = r.a.sum(r.buf[:n])
		if !r.once {
			r.sums.learn(r.a, number, blocksOf(r.at.size), d)
		}
	}
	return r.buf[:n], d, nil
}

// nextData is where data begin, past a hole.
func nextData(f *os.File, at, size int64) int64 {
	next, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size
	case err != nil:
		return at
	}
	return next
}
