"""Imports, in the finished image, everything that the launcher and functions rely on: the runtime client,
the SDK, and CPython's own library. Debian splits the library over packages and leaves parts of it out, and
the image must not. Fails with the names of what is missing."""
import importlib
import importlib.util
import sys
import warnings

#: Modules of other systems, which CPython lists for all.
OTHER_SYSTEMS = set(
    "_msi _osx_support _overlapped _scproxy _winapi msilib msvcrt nt winreg winsound".split()
)
#: Need a display. Lambda's interpreter has no Tk either.
DISPLAY = set("_tkinter idlelib tkinter turtle turtledemo".split())
#: Do something at import: open a browser, print.
NOT_IMPORTED = {"antigravity", "this"}
#: Of packages whose parts Debian has elsewhere, the parts.
PARTS = """
    ctypes.util curses.panel dbm.dumb dbm.gnu dbm.ndbm distutils.command.build_ext distutils.core
    distutils.dir_util distutils.spawn distutils.sysconfig distutils.util ensurepip._uninstall
    lib2to3.fixes.fix_print lib2to3.main lib2to3.pgen2.driver multiprocessing.pool pydoc_data.topics
    sqlite3.dbapi2 unittest.mock venv xml.etree.ElementTree
""".split()
#: Beside the library, as on Lambda.
RUNTIME = """
    awslambdaric.bootstrap boto3 pip pip._internal pkg_resources random_generators runtime_client
    setuptools simplejson
""".split()

warnings.simplefilter("ignore")
missing = []
for name in [*sorted(sys.stdlib_module_names), *PARTS, *RUNTIME]:
    if name in OTHER_SYSTEMS | DISPLAY:
        continue
    try:
        if name in NOT_IMPORTED:
            assert importlib.util.find_spec(name), name
        else:
            importlib.import_module(name)
    except Exception as error:
        missing.append(f"{name}: {error!r}")
if missing:
    sys.exit("\n".join(missing))
