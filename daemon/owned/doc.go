// Package owned tells whether files and directories are the user's own, and opens files to write so that nothing is
// written into, or through, what another user has made. The kernel's own protection (fs.protected_symlinks and the
// like) may be off.
//
// # Writing
//
// [Replace] and [Append] go through a path one name after the other, each relative to the directory that was opened
// before it, so that nobody can put something else in its place meanwhile. On the way:
//
//	a link                  is followed if it is the user's or root's (/dev/stderr, /var/log); another's is an error
//	a descriptor of ours    (/dev/stderr, /dev/fd/3, /proc/self/fd/3) is duplicated: it was opened by who started us
//	a file that is not there is made, 0600, by O_EXCL
//	a regular file          must be the user's, with one name. Replace makes a new one unless nobody else can read it;
//	                        Append refuses what others may write to, and otherwise leaves the mode as it is
//	a pipe                  must be the user's, with a reader. Others must not write to it nor, for Replace, read it
//	a device                must be the user's or root's: a terminal, /dev/null
//
// # Reading
//
// [CheckDir] and [CheckFile] say whether somebody else could have put there what is going to be read. Others are all
// but the user and root. What a group may write to counts as writable by others, unless the group is the user's
// private one: it has the user's name, is the user's own group, nobody else is in it according to /etc/group and
// /etc/passwd, and there is no access list (an access list shows in the mode's group bits). Access lists of NFSv4 are
// not looked at.
//
// # Directories for caches
//
// [MakeDir] makes one of mode 0700, if nobody else could put something into it; [OpenDir] opens one that is closed to
// others.
//
// The package holds no state and starts no goroutine.
package owned
