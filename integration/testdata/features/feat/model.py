import dataclasses
import enum
import typing

if typing.TYPE_CHECKING:
    from feat.sub import one


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Item:
    name: str
    color: 'Color' = Color.RED
    parts: 'typing.List[Item]' = dataclasses.field(default_factory=list)

    class Inner:
        pass

    def first(self, default: 'typing.Optional[int]' = None) -> 'Item':
        return self.parts[0]
