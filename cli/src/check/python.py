# Reads one Python file as an import would, without running any of it, and prints what it found as JSON.
# Arguments: the folders to import from, then "--", then the module's name.
import ast
import json
import os
import sys


def find(folders, module):
    for folder in folders:
        base = os.path.join(folder, *module.split("."))
        for path in (os.path.join(base, "__init__.py"), base + ".py"):
            if os.path.isfile(path):
                return path
    return None


def imported(tree):
    """The modules that the import of this one imports in any case: those that no `if` or `try` decides on."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


#: Code that can define names out of this program's sight.
DYNAMIC = {"globals", "locals", "vars", "exec", "eval", "setattr", "__getattr__", "modules", "__dict__"}


def defined(tree):
    """The names that the module defines, or None if that can't be told."""
    names = set()
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                if alias.name == "*":
                    return None
                names.add((alias.asname or alias.name).split(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending.extend(ast.iter_child_nodes(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            names.update(node.names)
        words = {getattr(node, field, None) for field in ("id", "attr", "name") if hasattr(node, field)}
        if words & DYNAMIC:
            return None
    return names


def main(folders, module):
    found = {"version": list(sys.version_info[:2]), "file": None, "names": None, "functions": [], "error": None}
    first = find(folders, module)
    if first is None:
        return found
    found["file"] = first
    # A package is run before its modules are.
    parts = module.split(".")
    pending = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    seen = set()
    while pending:
        path = find(folders, pending.pop(0))
        if path is None or path in seen:
            continue
        seen.add(path)
        with open(path, "rb") as file:
            source = file.read()
        try:
            tree = ast.parse(source, path)
        except SyntaxError as error:
            found["error"] = {"file": path, "line": error.lineno or 0, "message": error.msg}
            return found
        except (ValueError, RecursionError, MemoryError):
            continue
        if path == first:
            names = defined(tree)
            found["names"] = None if names is None else sorted(names)
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            found["functions"] = [node.name for node in tree.body if isinstance(node, functions)]
        pending.extend(imported(tree))
    return found


if __name__ == "__main__":
    end = sys.argv.index("--")
    print(json.dumps(main(sys.argv[1:end], sys.argv[end + 1])))
