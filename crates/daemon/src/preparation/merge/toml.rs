//! TOML files

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_edit::{DocumentMut, Item, TableLike};

use super::Value;

pub(super) fn values(text: &str) -> Result<Value, String> {
    let table = DeTable::parse(text).map_err(|error| error.message().replace('\n', ", "))?;
    Ok(section(table.get_ref()))
}

fn section(table: &DeTable<'_>) -> Value {
    let pairs = table
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), read(value.get_ref())));
    Value::Section(pairs.collect())
}

pub(in crate::preparation) fn read(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Table(table) => section(table),
        DeValue::String(text) => Value::Other(format!("{:?}", text.replace("\r\n", "\n"))),
        DeValue::Integer(number) => Value::Other(format!("{} in {}", number.as_str(), number.radix())),
        DeValue::Float(number) => Value::Other(format!("{} as float", number.as_str())),
        DeValue::Boolean(value) => Value::Other(value.to_string()),
        DeValue::Datetime(time) => Value::Other(time.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(Spanned::get_ref).map(read).collect()),
    }
}

pub(in crate::preparation) fn edit(base: &str, overlay: &str) -> Result<String, String> {
    let parse = |text: &str| {
        text.parse::<DocumentMut>()
            .map_err(|error| error.message().to_owned())
    };
    let (mut document, newer) = (parse(base)?, parse(overlay)?);
    merge(document.as_table_mut(), newer.as_table());
    Ok(document.to_string())
}

fn merge(base: &mut dyn TableLike, overlay: &dyn TableLike) {
    for (key, newer) in overlay.iter() {
        match base.get_mut(key) {
            None => {
                let mut added = newer.clone();
                forget_position(&mut added);
                base.insert(key, added);
            }
            Some(former) if former.is_table_like() && newer.is_table_like() => {
                if let (Some(former), Some(newer)) = (former.as_table_like_mut(), newer.as_table_like()) {
                    merge(former, newer);
                }
            }
            Some(Item::Value(former)) if newer.is_value() => {
                if let Some(newer) = newer.as_value().filter(|newer| !is_same(former, newer)) {
                    // What stands around the value: blanks and the comment behind it.
                    let decor = former.decor().clone();
                    *former = newer.clone();
                    *former.decor_mut() = decor;
                }
            }
            Some(former) => {
                *former = newer.clone();
                forget_position(former);
            }
        }
    }
}

fn is_same(former: &toml_edit::Value, newer: &toml_edit::Value) -> bool {
    let bare = |value: &toml_edit::Value| value.clone().decorated("", "").to_string();
    bare(former) == bare(newer)
}

/// Sections stand in a document by number: those of another one come behind what is there
fn forget_position(item: &mut Item) {
    match item {
        Item::Table(table) => {
            table.set_position(None);
            table.iter_mut().for_each(|(_, item)| forget_position(item));
        }
        Item::ArrayOfTables(tables) => {
            for table in tables.iter_mut() {
                table.set_position(None);
                table.iter_mut().for_each(|(_, item)| forget_position(item));
            }
        }
        Item::None | Item::Value(_) => {}
    }
}
