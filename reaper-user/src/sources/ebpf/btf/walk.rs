//! A minimal BTF [1] reader: it steps over every type and finds the members of a structure by name.
//!
//! Every index is checked and every loop is bounded, because the bytes may be anything.
//!
//! [1]: <https://docs.kernel.org/bpf/btf.html>

use std::ops::Range;

use super::BtfError;

pub(super) const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

/// Depth of anonymous members within anonymous members. `task_struct` needs two.
const MAX_DEPTH: u32 = 8;
/// Members checked for one name. `task_struct` has under 300. Without the limit, a blob whose types
/// contain themselves would loop without end.
const MAX_MEMBERS: u32 = 10_000;

pub(crate) mod kind {
    pub(crate) const INT: u32 = 1;
    pub(crate) const PTR: u32 = 2;
    pub(crate) const ARRAY: u32 = 3;
    pub(crate) const STRUCT: u32 = 4;
    pub(crate) const UNION: u32 = 5;
    pub(crate) const ENUM: u32 = 6;
    pub(crate) const FWD: u32 = 7;
    pub(crate) const TYPEDEF: u32 = 8;
    pub(crate) const VOLATILE: u32 = 9;
    pub(crate) const CONST: u32 = 10;
    pub(crate) const RESTRICT: u32 = 11;
    pub(crate) const FUNC: u32 = 12;
    pub(crate) const FUNC_PROTO: u32 = 13;
    pub(crate) const VAR: u32 = 14;
    pub(crate) const DATASEC: u32 = 15;
    pub(crate) const FLOAT: u32 = 16;
    pub(crate) const DECL_TAG: u32 = 17;
    pub(crate) const TYPE_TAG: u32 = 18;
    pub(crate) const ENUM64: u32 = 19;
}

/// A structure to find while the types are stepped over.
pub(super) struct Wanted {
    name: &'static str,
    found: Option<u32>,
}

impl Wanted {
    pub(super) fn named(name: &'static str) -> Self {
        Self { name, found: None }
    }
}

pub(super) struct Btf<'a> {
    types: &'a [u8],
    names: &'a [u8],
    /// Where each type starts in `types`. Id 0 is `void`, which has no bytes.
    starts: Vec<u32>,
}

/// The fixed part of a type.
#[derive(Clone, Copy)]
struct Type {
    id: u32,
    name: u32,
    info: u32,
    /// Size in bytes, or the id of the type that it refers to, by kind.
    size_or_target: u32,
    /// Where its members start in the types.
    members: usize,
}

impl Type {
    fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    fn count(self) -> u32 {
        self.info & 0xffff
    }

    /// Whether the high byte of a member offset has the size of a bit field.
    fn has_bit_fields(self) -> bool {
        self.info >> 31 != 0
    }
}

/// A named member, relative to the outermost structure.
struct Member {
    bit: u32,
    bit_field: bool,
    type_id: u32,
}

impl<'a> Btf<'a> {
    pub(super) fn parse(blob: &'a [u8], wanted: &mut [&mut Wanted]) -> Result<Self, BtfError> {
        let magic = blob.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
        if magic != Some(MAGIC) {
            return Err(BtfError::NotBtf);
        }
        let cut = || BtfError::Truncated { type_id: 0 };
        let field = |at| word(blob, at).ok_or_else(cut);
        let header = field(4)? as usize;
        if header < HEADER_BYTES {
            return Err(cut());
        }
        let section = |at, len| -> Result<&'a [u8], BtfError> {
            let range = part(header, field(at)?, field(len)?).ok_or_else(cut)?;
            blob.get(range).ok_or_else(cut)
        };
        let mut btf = Self {
            types: section(8, 12)?,
            names: section(16, 20)?,
            starts: vec![0],
        };
        btf.step_over_types(wanted)?;
        Ok(btf)
    }

    fn step_over_types(&mut self, wanted: &mut [&mut Wanted]) -> Result<(), BtfError> {
        let mut at = 0;
        for id in 1.. {
            if at == self.types.len() {
                break;
            }
            let found = self.type_at(at, id)?;
            self.starts
                .push(u32::try_from(at).map_err(|_too_long| BtfError::NotBtf)?);
            if found.kind() == kind::STRUCT {
                for wanted in wanted.iter_mut().filter(|wanted| wanted.found.is_none()) {
                    if self.is_named(found, found.name, wanted.name)? {
                        wanted.found = Some(id);
                    }
                }
            }
            at = found.members + trailer_bytes(found)?;
            if at > self.types.len() {
                return Err(BtfError::Truncated { type_id: id });
            }
        }
        Ok(())
    }

    fn type_at(&self, at: usize, id: u32) -> Result<Type, BtfError> {
        let field = |at| word(self.types, at).ok_or(BtfError::Truncated { type_id: id });
        Ok(Type {
            id,
            name: field(at)?,
            info: field(at + 4)?,
            size_or_target: field(at + 8)?,
            members: at + TYPE_BYTES,
        })
    }

    fn by_id(&self, id: u32) -> Result<Type, BtfError> {
        match self.starts.get(id as usize) {
            Some(&start) if id != 0 => self.type_at(start as usize, id),
            _ => Err(BtfError::Truncated { type_id: id }),
        }
    }

    /// Returns whether the name at `name` in `owner` is `wanted`. An anonymous one has the empty
    /// name.
    fn is_named(&self, owner: Type, name: u32, wanted: &str) -> Result<bool, BtfError> {
        let name = self
            .names
            .get(name as usize..)
            .filter(|rest| !rest.is_empty());
        let name = name.ok_or(BtfError::Truncated { type_id: owner.id })?;
        Ok(name
            .strip_prefix(wanted.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0)))
    }

    /// Returns the byte offset of a member that is a plain field of `expected` bytes.
    pub(super) fn offset(
        &self,
        structure: &Wanted,
        member: &'static str,
        expected: u32,
    ) -> Result<u32, BtfError> {
        let Wanted {
            name: structure,
            found,
        } = *structure;
        let outer = self.by_id(found.ok_or(BtfError::NoStruct { structure })?)?;
        let mut budget = MAX_MEMBERS;
        let Some(found) = self.member(outer, member, 0, &mut budget)? else {
            return Err(BtfError::NoMember { structure, member });
        };
        let byte = found.bit / 8;
        let whole = !found.bit_field && found.bit.is_multiple_of(8);
        let inside = byte
            .checked_add(expected)
            .is_some_and(|end| end <= outer.size_or_target);
        if whole && inside && self.size(found.type_id)? == Some(expected) {
            Ok(byte)
        } else {
            Err(BtfError::Unexpected {
                structure,
                member,
                expected,
            })
        }
    }

    /// Finds a member by name, also within anonymous members.
    fn member(
        &self,
        structure: Type,
        wanted: &str,
        depth: u32,
        budget: &mut u32,
    ) -> Result<Option<Member>, BtfError> {
        let cut = BtfError::Truncated {
            type_id: structure.id,
        };
        for index in 0..structure.count() as usize {
            *budget = budget.checked_sub(1).ok_or_else(|| cut.clone())?;
            let at = structure.members + index * MEMBER_BYTES;
            let field = |at| word(self.types, at).ok_or_else(|| cut.clone());
            let (name, type_id, offset) = (field(at)?, field(at + 4)?, field(at + 8)?);
            let (bit, bit_field) = if structure.has_bit_fields() {
                (offset & 0x00ff_ffff, offset >> 24 != 0)
            } else {
                (offset, false)
            };
            if self.is_named(structure, name, wanted)? {
                return Ok(Some(Member {
                    bit,
                    bit_field,
                    type_id,
                }));
            }
            let anonymous = !bit_field && self.is_named(structure, name, "")?;
            if !anonymous || depth == MAX_DEPTH {
                continue;
            }
            let inner = self.unqualified(type_id)?;
            if let Some(inner) = inner.filter(|inner| is_composite(*inner))
                && let Some(member) = self.member(inner, wanted, depth + 1, budget)?
            {
                let bit = bit.checked_add(member.bit).ok_or(cut)?;
                return Ok(Some(Member { bit, ..member }));
            }
        }
        Ok(None)
    }

    /// Returns the type behind typedefs and qualifiers; `None` for `void`.
    fn unqualified(&self, mut id: u32) -> Result<Option<Type>, BtfError> {
        for _ in 0..MAX_DEPTH {
            if id == 0 {
                return Ok(None);
            }
            let found = self.by_id(id)?;
            match found.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = found.size_or_target;
                }
                _ => return Ok(Some(found)),
            }
        }
        Err(BtfError::Truncated { type_id: id })
    }

    fn size(&self, id: u32) -> Result<Option<u32>, BtfError> {
        Ok(self.unqualified(id)?.and_then(|found| match found.kind() {
            kind::PTR => Some(8),
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 => {
                Some(found.size_or_target)
            }
            _ => None,
        }))
    }
}

fn is_composite(found: Type) -> bool {
    matches!(found.kind(), kind::STRUCT | kind::UNION)
}

/// Returns how many bytes follow the fixed part of a type.
fn trailer_bytes(found: Type) -> Result<usize, BtfError> {
    let count = found.count() as usize;
    Ok(match found.kind() {
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => 0,
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION => count * MEMBER_BYTES,
        kind::ENUM | kind::FUNC_PROTO => count * 8,
        kind::DATASEC | kind::ENUM64 => count * 12,
        kind => {
            return Err(BtfError::UnknownKind {
                type_id: found.id,
                kind,
            });
        }
    })
}

fn part(header: usize, offset: u32, len: u32) -> Option<Range<usize>> {
    let start = header.checked_add(offset as usize)?;
    Some(start..start.checked_add(len as usize)?)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}
