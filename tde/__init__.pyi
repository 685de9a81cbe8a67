from tde.algorithms import Algorithm as Algorithm
from tde.errors import (
    BufferLengthError as BufferLengthError,
    IdentityError as IdentityError,
    KeyLengthError as KeyLengthError,
    PageError as PageError,
    TdeError as TdeError,
)
from tde.page.codec import PageCipher as PageCipher
from tde.page.identity import (
    FileIdentity as FileIdentity,
    Fork as Fork,
    RelationIdentity as RelationIdentity,
    WalIdentity as WalIdentity,
)
from tde.version import __version__ as __version__
