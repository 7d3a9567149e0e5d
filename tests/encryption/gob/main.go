package main

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"fmt"
	"os"
	"time"
)

type Time struct{ time.Time }
type BucketID struct{ Stage, BucketName string }
type Owner struct {
	ID       int
	Name     string
	Features []string
	HasMysql bool
}
type TokenOwner = Owner
type CreatorToken struct {
	ID          int
	Description string
}
type Token struct {
	Token, ID, Description                                                     string
	IsMaster, CanManageBuckets, CanManageTokens, CanReadAllFileUploads, CanPurgeTrash bool
	Created, Refreshed                                                         Time
	Expires                                                                    *Time
	IsExpired, IsDisabled                                                      bool
	Owner                                                                      Owner
	Creator                                                                    *CreatorToken
	BucketPermissions                                                          map[BucketID]string
	ComponentAccess                                                            []string
}
type FileKey struct {
	BranchID int
	FileID   int
}
type File struct {
	FileKey
	Created                       Time
	IsSliced, IsEncrypted         bool
	Name, URL, Provider, Region   string
	SizeBytes                     uint64
	Tags                          []string
	MaxAgeDays                    uint
	ContentType                   string
	FederationToken, IsPermanent, Notify bool
}
type Path struct{ Key, Bucket string }
type Credentials struct {
	AccessKeyID, SecretAccessKey, SessionToken string
	Expiration                                 Time
}
type S3 struct {
	Path
	Credentials     Credentials
	ACL, Encryption string
}
type GCred struct {
	ProjectID, AccessToken, TokenType string
	ExpiresIn                         int
}
type GCS struct {
	Path
	Credentials GCred
}
type ACred struct {
	SASConnectionString string
	Expiration          Time
}
type ABS struct {
	BlobName, AccountName, Container string
	Credentials                      ACred
}
type FileUploadCredentials struct {
	File
	ABSUploadParams *ABS
	GCSUploadParams *GCS
	S3UploadParams  *S3
}
type Odd struct {
	F  float64
	M  map[string]int
	B  []byte
	A  [2]int
	N  int
	L  []Path
	U  uint64
	T  bool
}

func enc(v any) {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(v); err != nil {
		panic(err)
	}
	fmt.Println(base64.StdEncoding.EncodeToString(b.Bytes()))
}
func main() {
	if len(os.Args) > 2 {
		raw, err := base64.StdEncoding.DecodeString(os.Args[2])
		if err != nil {
			panic(err)
		}
		d := gob.NewDecoder(bytes.NewReader(raw))
		if os.Args[1] == "token" {
			var t Token
			err = d.Decode(&t)
			fmt.Printf("%+v %v\n", t, err)
		} else {
			var t FileUploadCredentials
			err = d.Decode(&t)
			fmt.Printf("%+v %+v %+v %+v %v\n", t.File, t.S3UploadParams, t.GCSUploadParams, t.ABSUploadParams, err)
		}
		return
	}
	at := Time{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	enc(&Token{Token: "123-1001-secret", ID: "1001", Description: "[_internal] Stream Sink my-source/my-sink", CanReadAllFileUploads: true, Created: at, Owner: Owner{ID: 123, Name: "My project", Features: []string{"a"}}, Creator: &CreatorToken{7, "d"}, BucketPermissions: map[BucketID]string{{"in", "c-bucket"}: "write"}})
	enc(FileUploadCredentials{File: File{FileKey: FileKey{456, 1001}, Created: at, IsSliced: true, Name: "my-file", Provider: "aws", Region: "eu-central-1", Tags: []string{"a", "b"}, SizeBytes: 300, FederationToken: true}, S3UploadParams: &S3{Path{"exp/1001/", "my-bucket"}, Credentials{"id", "secret", "session", at}, "private", "AES256"}})
	enc(FileUploadCredentials{File: File{FileKey: FileKey{456, 1002}, Created: at, Name: "my-file", Provider: "azure"}, ABSUploadParams: &ABS{"blob/", "account", "container", ACred{"BlobEndpoint=https://account.blob.core.windows.net;SharedAccessSignature=sv=1&sig=2", at}}})
	enc(FileUploadCredentials{File: File{FileKey: FileKey{456, 1003}, Created: at, Name: "my-file", Provider: "gcp"}, GCSUploadParams: &GCS{Path{"exp/", "my-bucket"}, GCred{"p", "access", "Bearer", 3600}}})
	enc(Odd{1.5, map[string]int{"a": -300}, []byte("xyz"), [2]int{1, 0}, -1, []Path{{"k", ""}, {}}, 1 << 63, true})
}
