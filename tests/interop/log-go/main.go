// SPDX-License-Identifier: Apache-2.0

// Checks a log with golang.org/x/mod: signed head, every inclusion, every consistency.
package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type given struct {
	Key         string
	Notes       []string
	Entries     []string
	Inclusion   [][]string
	Consistency [][]string
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func hash(data []byte, err error) (value tlog.Hash) {
	must(err)
	copy(value[:], data)
	return
}

func hashes(texts []string) (values []tlog.Hash) {
	for _, text := range texts {
		values = append(values, hash(hex.DecodeString(text)))
	}
	return
}

func main() {
	var log given
	must(json.NewDecoder(os.Stdin).Decode(&log))
	verifier, err := note.NewVerifier(log.Key)
	must(err)
	var trees []tlog.Tree
	for _, text := range log.Notes {
		signed, err := note.Open([]byte(text), note.VerifierList(verifier))
		must(err)
		lines := strings.Split(signed.Text, "\n")
		size, err := strconv.ParseInt(lines[1], 10, 64)
		must(err)
		trees = append(trees, tlog.Tree{N: size, Hash: hash(base64.StdEncoding.DecodeString(lines[2]))})
	}
	last := trees[len(trees)-1]
	for index, entry := range log.Entries {
		must(tlog.CheckRecord(hashes(log.Inclusion[index]), last.N, last.Hash, int64(index), tlog.RecordHash([]byte(entry))))
	}
	for index, tree := range trees[:len(trees)-1] {
		must(tlog.CheckTree(hashes(log.Consistency[index]), last.N, last.Hash, tree.N, tree.Hash))
	}
	fmt.Println(len(log.Entries), "entries", len(trees), "heads")
}
