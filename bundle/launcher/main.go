// The beginning of the single file. It unpacks the tree that follows it, once for each version, and
// becomes the Python in it: no process stays between the caller and the service, so signals, exit
// codes and process ids are those of the service.
//
// The file is this program, a gzipped tar, and a trailer: the length of the tar (8 bytes, big
// endian), its SHA-256 and the magic, which also tells in which mode Python is to run.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	magic       = "STREAM-BUNDLE-1\n"
	development = "STREAM-BUNDLE-D\n"
	trailerSize = 8 + sha256.Size + len(magic)
	directory   = "STREAM_BUNDLE_DIR"
	// ST_NOEXEC of statfs(2).
	mountedNoExec = 8
	module        = "stream"
	// The command line, which the file is if it is called by this name.
	commandLine = "stream"
)

// Replaced by the linker: the interpreter and the loader in the tree, and what stands in the
// interpreter in place of their absolute paths.
var python, loader, loaderPlaceholder, librariesPlaceholder string

// Whether Python and all that it starts run in development mode (python -X dev).
var isDevelopment bool

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "Error: "+err.Error()+".")
		os.Exit(1)
	}
}

func run() error {
	file, err := openSelf()
	if err != nil {
		return fmt.Errorf("cannot open the executable: %w", err)
	}
	length, sum, err := readTrailer(file)
	if err != nil {
		return err
	}
	base, err := baseDirectory()
	if err != nil {
		return fmt.Errorf("cannot unpack to %w; %s may name another directory", err, directory)
	}
	tree := filepath.Join(base, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(tree); err != nil {
		if err := unpack(file, length, sum, base, tree); err != nil {
			return fmt.Errorf("cannot unpack to %q: %w", base, err)
		}
	}
	file.Close()
	interpreter := filepath.Join(tree, python)
	called := module
	if len(os.Args) > 0 && filepath.Base(os.Args[0]) == commandLine {
		called += ".cli"
	}
	arguments := append([]string{interpreter, "-m", called}, os.Args[1:]...)
	err = syscall.Exec(interpreter, arguments, environment())
	return fmt.Errorf("cannot start %q: %w", interpreter, err)
}

func openSelf() (*os.File, error) {
	if file, err := os.Open("/proc/self/exe"); err == nil {
		return file, nil
	}
	path, err := exec.LookPath(os.Args[0]) // a chroot without /proc
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

func readTrailer(file *os.File) (length int64, sum [sha256.Size]byte, err error) {
	end, err := file.Seek(-int64(trailerSize), io.SeekEnd)
	if err != nil {
		return 0, sum, err
	}
	trailer := make([]byte, trailerSize)
	if _, err := io.ReadFull(file, trailer); err != nil {
		return 0, sum, err
	}
	length = int64(binary.BigEndian.Uint64(trailer))
	kind := string(trailer[8+sha256.Size:])
	isDevelopment = kind == development
	if kind != magic && !isDevelopment || length <= 0 || length > end {
		return 0, sum, errors.New("the executable is damaged: it has no end")
	}
	copy(sum[:], trailer[8:])
	if _, err := file.Seek(end-length, io.SeekStart); err != nil {
		return 0, sum, err
	}
	return length, sum, nil
}

// baseDirectory is a directory that nobody else can write to; what is found in it is executed.
func baseDirectory() (string, error) {
	if chosen := os.Getenv(directory); chosen != "" {
		chosen, err := filepath.Abs(chosen)
		if err != nil {
			return "", err
		}
		if err := os.MkdirAll(chosen, 0o755); err != nil {
			return "", fmt.Errorf("%q: %w", chosen, err)
		}
		return chosen, private(chosen)
	}
	if cache, err := os.UserCacheDir(); err == nil {
		own := filepath.Join(cache, "stream-service")
		if os.MkdirAll(own, 0o700) == nil && private(own) == nil {
			return own, nil
		}
	}
	own := filepath.Join(os.TempDir(), "stream-service-"+strconv.Itoa(os.Geteuid()))
	if err := os.MkdirAll(own, 0o700); err != nil {
		return "", fmt.Errorf("%q: %w", own, err)
	}
	return own, private(own)
}

// executable tells before anything is unpacked what else would be found only when Python starts.
func executable(path string) error {
	var system syscall.Statfs_t
	if syscall.Statfs(path, &system) == nil && system.Flags&mountedNoExec != 0 {
		return fmt.Errorf("%q: its file system doesn't allow execution", path)
	}
	return nil
}

// private tells whether somebody else could replace what is in the directory: one who owns or may
// write to it, or to any directory above it. Above, a sticky one (/tmp) keeps others from renaming.
func private(path string) error {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for place := resolved; ; place = filepath.Dir(place) {
		info, err := os.Lstat(place)
		if err != nil {
			return err
		}
		owner, known := info.Sys().(*syscall.Stat_t)
		isOwn := known && (int(owner.Uid) == os.Geteuid() || owner.Uid == 0)
		isShared := info.Mode().Perm()&0o022 != 0
		isSticky := place != resolved && info.Mode()&os.ModeSticky != 0
		if !info.IsDir() || !isOwn || isShared && !isSticky {
			return fmt.Errorf("%q: %q can be changed by others", path, place)
		}
		if place == filepath.Dir(place) {
			break
		}
	}
	if err := syscall.Access(path, 2); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	return executable(path)
}

// unpack is done by one process at a time; the tree appears under its name when it is complete.
func unpack(file *os.File, length int64, sum [sha256.Size]byte, base, tree string) error {
	lock, err := os.OpenFile(tree+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.Stat(tree); err == nil {
		return nil
	}
	partial := tree + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	hash := sha256.New()
	packed := io.TeeReader(io.LimitReader(file, length), hash)
	if err := extract(packed, partial); err != nil {
		os.RemoveAll(partial)
		return err
	}
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return err
	}
	if !bytes.Equal(hash.Sum(nil), sum[:]) {
		os.RemoveAll(partial)
		return errors.New("the executable is damaged: its checksum is wrong")
	}
	if err := relocate(filepath.Join(partial, python), filepath.Join(tree, loader)); err != nil {
		return err
	}
	syscall.Sync() // or a power cut leaves the name of a complete tree with empty files behind it
	return os.Rename(partial, tree)
}

func extract(packed io.Reader, target string) error {
	plain, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	archive := tar.NewReader(plain)
	for {
		entry, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(entry.Name) {
			return fmt.Errorf("%q leads outside", entry.Name)
		}
		path := filepath.Join(target, entry.Name)
		switch entry.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			err = write(path, archive, entry.FileInfo().Mode().Perm())
		default:
			err = fmt.Errorf("%q is neither a file nor a directory", entry.Name)
		}
		if err != nil {
			return err
		}
	}
}

func write(path string, content io.Reader, mode os.FileMode) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// relocate puts the absolute paths of the loader and of the libraries beside it into the interpreter.
func relocate(interpreter, loader string) error {
	content, err := os.ReadFile(interpreter)
	if err != nil {
		return err
	}
	if err := replace(content, loaderPlaceholder, loader); err != nil {
		return err
	}
	if err := replace(content, librariesPlaceholder, filepath.Dir(loader)); err != nil {
		return err
	}
	return os.WriteFile(interpreter, content, 0o755)
}

func replace(content []byte, placeholder, path string) error {
	if len(path) > len(placeholder) {
		return fmt.Errorf("the path is longer than %d characters", len(placeholder))
	}
	at := bytes.Index(content, []byte(placeholder))
	if at < 0 {
		return errors.New("the interpreter has no place for a path")
	}
	copy(content[at:at+len(placeholder)], path+strings.Repeat("\x00", len(placeholder)))
	return nil
}

// environment is the caller's without what would make our Python look for modules elsewhere.
func environment() []string {
	kept := []string{"PYTHONSAFEPATH=1", "PYTHONNOUSERSITE=1", "PYTHONDONTWRITEBYTECODE=1"}
	if isDevelopment {
		kept = append(kept, "PYTHONDEVMODE=1")
	}
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PYTHON") && !strings.HasPrefix(variable, directory+"=") {
			kept = append(kept, variable)
		}
	}
	return kept
}
