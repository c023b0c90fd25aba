package main

import (
	"go/ast"
	"go/parser"
	"go/token"
)

// swaps are the operators that take each other's place, in Go and in C.
var swaps = map[string][]string{
	"==": {"!="}, "!=": {"=="},
	"<": {"<=", ">="}, "<=": {"<", ">"}, ">": {">=", "<="}, ">=": {">", "<"},
	"&&": {"||"}, "||": {"&&"},
	"+": {"-"}, "-": {"+"}, "*": {"/"}, "/": {"*"}, "%": {"/"},
	"&": {"|"}, "|": {"&"}, "^": {"&"}, "&^": {"&"}, "<<": {">>"}, ">>": {"<<"},
	"+=": {"-="}, "-=": {"+="}, "|=": {"&="}, "&=": {"|="}, "&^=": {"|="},
	"++": {"--"}, "--": {"++"},
}

// goMutator collects the changes of one Go file.
type goMutator struct {
	src  []byte
	file *token.File
	all  []change
}

// goChanges are all changes of a Go file. Some do not compile.
func goChanges(src []byte) ([]change, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	m := &goMutator{src: src, file: fset.File(f.FileStart)}
	ast.Inspect(f, m.visit)
	return m.all, nil
}

func (m *goMutator) replace(from, to token.Pos, with string) {
	m.all = append(m.all, change{m.file.Offset(from), m.file.Offset(to), with})
}

func (m *goMutator) text(n ast.Node) string {
	return string(m.src[m.file.Offset(n.Pos()):m.file.Offset(n.End())])
}

func (m *goMutator) swap(pos token.Pos, op token.Token) {
	for _, other := range swaps[op.String()] {
		m.replace(pos, pos+token.Pos(len(op.String())), other)
	}
}

func (m *goMutator) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		m.swap(n.OpPos, n.Op)
	case *ast.AssignStmt:
		m.swap(n.TokPos, n.Tok)
	case *ast.IncDecStmt:
		m.swap(n.TokPos, n.Tok)
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			m.replace(n.OpPos, n.X.Pos(), "")
		}
	case *ast.BasicLit:
		if n.Kind == token.INT {
			m.replace(n.Pos(), n.End(), "("+n.Value+"+1)")
			m.replace(n.Pos(), n.End(), "("+n.Value+"-1)")
		}
	case *ast.Ident:
		if other, ok := map[string]string{"true": "false", "false": "true"}[n.Name]; ok {
			m.replace(n.Pos(), n.End(), other)
		}
	case *ast.IfStmt:
		m.negate(n.Cond)
	case *ast.ForStmt:
		m.negate(n.Cond)
	case *ast.SwitchStmt:
		m.cases(n)
	case *ast.BlockStmt:
		m.drop(n.List)
	case *ast.CaseClause:
		m.drop(n.Body)
	case *ast.CommClause:
		m.drop(n.Body)
	case *ast.FuncDecl:
		m.returns(n.Type, n.Body)
	case *ast.FuncLit:
		m.returns(n.Type, n.Body)
	}
	return true
}

// negate leaves alone what a swapped comparison or a dropped "!" negates.
func (m *goMutator) negate(cond ast.Expr) {
	switch c := cond.(type) {
	case nil:
		return
	case *ast.UnaryExpr:
		if c.Op == token.NOT {
			return
		}
	case *ast.BinaryExpr:
		if c.Op.Precedence() == token.EQL.Precedence() {
			return
		}
	}
	m.replace(cond.Pos(), cond.End(), "!("+m.text(cond)+")")
}

// cases negates the conditions of a switch without a tag.
func (m *goMutator) cases(s *ast.SwitchStmt) {
	if s.Tag != nil {
		return
	}
	for _, c := range s.Body.List {
		for _, cond := range c.(*ast.CaseClause).List {
			m.negate(cond)
		}
	}
}

func (m *goMutator) drop(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.AssignStmt:
			if blank, ok := s.Lhs[0].(*ast.Ident); s.Tok == token.DEFINE || ok && blank.Name == "_" {
				continue
			}
		case *ast.ReturnStmt:
			if len(s.Results) > 0 {
				continue
			}
		case *ast.ExprStmt, *ast.IncDecStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt, *ast.BranchStmt:
		default:
			continue
		}
		m.replace(s.Pos(), s.End(), "")
	}
}

// returns puts zero values in the place of results.
func (m *goMutator) returns(t *ast.FuncType, body *ast.BlockStmt) {
	if body == nil || t.Results == nil {
		return
	}
	var types []ast.Expr
	for _, f := range t.Results.List {
		for range max(1, len(f.Names)) {
			types = append(types, f.Type)
		}
	}
	ast.Inspect(body, func(n ast.Node) bool {
		if r, ok := n.(*ast.ReturnStmt); ok && len(r.Results) == len(types) {
			for i, result := range r.Results {
				for _, zero := range zeros(types[i]) {
					if old := m.text(result); old != zero && old != "true" && old != "false" {
						m.replace(result.Pos(), result.End(), zero)
					}
				}
			}
		}
		_, inner := n.(*ast.FuncLit)
		return !inner
	})
}

// zeros are the values that stand for a result of type t, none where the type's name does not tell.
func zeros(t ast.Expr) []string {
	switch t := t.(type) {
	case *ast.StarExpr, *ast.MapType, *ast.ChanType, *ast.FuncType, *ast.InterfaceType:
		return []string{"nil"}
	case *ast.ArrayType:
		if t.Len == nil {
			return []string{"nil"}
		}
	case *ast.Ident:
		switch t.Name {
		case "error", "any":
			return []string{"nil"}
		case "bool":
			return []string{"false", "true"}
		case "string":
			return []string{`""`}
		case "byte", "int", "int64", "uint8", "uint16", "uint32", "uint64":
			return []string{"0"}
		}
	case *ast.SelectorExpr:
		if x, ok := t.X.(*ast.Ident); ok && x.Name == "C" {
			return []string{"0"}
		}
	}
	return nil
}
