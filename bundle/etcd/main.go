// The etcd of the single file, of the image and of `make run`: the server, as etcd's own command is.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
