// Lists the exports of the Go package in a directory, one JSON object a line:
// the kind, the name (of a method with its receiver's type in front) and the
// file. Build constraints are ignored, test files are left out.
package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

type export struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	File string `json:"file"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: exports <directory>")
		os.Exit(2)
	}
	packages, err := parser.ParseDir(token.NewFileSet(), os.Args[1], func(f fs.FileInfo) bool {
		return !strings.HasSuffix(f.Name(), "_test.go")
	}, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	for _, pkg := range packages {
		for path, file := range pkg.Files {
			for _, declaration := range file.Decls {
				for _, e := range exports(declaration) {
					e.File = filepath.Base(path)
					out.Encode(e)
				}
			}
		}
	}
}

func exports(declaration ast.Decl) []export {
	var found []export
	add := func(kind, prefix string, name *ast.Ident) {
		if name.IsExported() {
			found = append(found, export{Kind: kind, Name: prefix + name.Name})
		}
	}
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			add("func", "", d.Name)
			break
		}
		receiver := d.Recv.List[0].Type
		if pointer, ok := receiver.(*ast.StarExpr); ok {
			receiver = pointer.X
		}
		if name, ok := receiver.(*ast.Ident); ok && name.IsExported() {
			add("method", name.Name+".", d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				add("type", "", s.Name)
			case *ast.ValueSpec:
				for _, name := range s.Names {
					add(d.Tok.String(), "", name)
				}
			}
		}
	}
	return found
}
