# mitogend: unpack
import os

from . import inner

HERE = os.path.dirname(__file__)
